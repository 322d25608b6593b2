"""The kernels equal the dequantized product, on every kind of processor that they are compiled for."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptcore.errors import ConfigError
from gptcore.kernels.build import NATIVE, build_library, find_compiler
from gptcore.kernels.native import Native, Weights
from gptcore.transforms import QuantizedMatrix

TARGETS = {"native": NATIVE, "portable": ()}
if platform.machine() == "x86_64":
    TARGETS |= {"portable": ("-march=x86-64",), "avx2": ("-mavx2", "-mfma")}


@pytest.fixture(scope="module", params=TARGETS)
def kernels(request: pytest.FixtureRequest) -> Native:
    """The kernels for one kind of processor; a skip without a compiler, or on a processor that is not of that kind."""
    try:
        find_compiler()
    except ConfigError as error:
        pytest.skip(str(error))
    cpu = Path("/proc/cpuinfo")
    if request.param == "avx2" and " avx2 " not in cpu.read_text(encoding="utf-8"):
        pytest.skip("this processor has no AVX2")
    made = Native(build_library(target=TARGETS[request.param]))
    expected = {"avx2": "AVX2", "portable": "portable"}
    assert made.lanes == expected.get(request.param, made.lanes)
    return made


@st.composite
def products(draw: st.DrawFn) -> tuple[Tensor, Tensor | QuantizedMatrix, Tensor | None]:
    """Activations (N, I), a matrix (O, I) of any kind, and a bias or none."""
    kind = draw(st.sampled_from(["fp32", "int8", "int4"]))
    group = draw(st.sampled_from([2, 6, 16, 32, 64])) if kind == "int4" else 1
    n_inputs = group * draw(st.integers(1, 5)) if kind == "int4" else draw(st.integers(1, 150))
    n_outputs, n_rows = draw(st.integers(1, 40)), draw(st.integers(1, 11))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    weight = numbers(n_outputs, n_inputs) * 10.0 ** draw(st.integers(-4, 3))
    matrix = weight if kind == "fp32" else QuantizedMatrix(weight, bits=int(kind[3:]), group_size=group)
    bias = numbers(n_outputs) if draw(st.booleans()) else None
    return numbers(n_rows, n_inputs), matrix, bias


def expected(x: Tensor, matrix: Tensor | QuantizedMatrix, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The product in fp64, and for each number the sum of the sizes of what was added up."""
    dense = (matrix.dense() if isinstance(matrix, QuantizedMatrix) else matrix).double()
    added = torch.zeros(len(dense)).double() if bias is None else bias.double()
    return x.double() @ dense.T + added, x.double().abs() @ dense.abs().T + added.abs()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_product_equals_that_with_the_dequantized_matrix(kernels: Native, n_threads: int) -> None:
    @settings(max_examples=120, deadline=None)
    @given(products())
    def check(product: tuple[Tensor, Tensor | QuantizedMatrix, Tensor | None]) -> None:
        x, matrix, bias = product
        found = kernels.linear(Weights(matrix, bias), x)
        wanted, size = expected(x, matrix, bias)
        assert bool(((found - wanted).abs() <= 2e-6 * size).all())

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        check()
    finally:
        torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(product=products())
def test_a_row_gives_the_same_bits_alone_and_among_others(
    kernels: Native, product: tuple[Tensor, Tensor | QuantizedMatrix, Tensor | None]
) -> None:
    x, matrix, bias = product
    weights = Weights(matrix, bias)
    for narrow in (False, True):
        together = kernels.linear(weights, x, narrow=narrow)
        assert all(
            torch.equal(kernels.linear(weights, row[None], narrow=narrow)[0], y)
            for row, y in zip(x, together, strict=True)
        )


@settings(max_examples=60, deadline=None)
@given(product=products())
def test_narrow_activations_err_by_their_step(
    kernels: Native, product: tuple[Tensor, Tensor | QuantizedMatrix, Tensor | None]
) -> None:
    x, matrix, bias = product
    if not (isinstance(matrix, QuantizedMatrix) and matrix.bits == 8):
        return
    found = kernels.linear(Weights(matrix, bias), x, narrow=True)
    wanted, size = expected(x, matrix, bias)
    step = x.abs().amax(dim=1, keepdim=True).double() / min(32767, (2**31 - 1) // (127 * x.shape[1]))
    bound = 0.51 * step * matrix.dense().double().abs().sum(dim=1) + 2e-6 * size
    assert bool(((found - wanted).abs() <= bound).all())


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_lost(kernels: Native, bad: float, narrow: bool) -> None:
    weights = Weights(QuantizedMatrix(torch.randn(5, 40), bits=8, group_size=32), None)
    x = torch.randn(3, 40)
    x[1, 7] = bad
    finite = kernels.linear(weights, x, narrow=narrow).isfinite()
    assert finite.all(dim=1).tolist() == [True, False, True]


def test_the_largest_sums_fit(kernels: Native) -> None:
    matrix = QuantizedMatrix(torch.ones(4, 6400), bits=8, group_size=32)
    x = torch.ones(2, 6400)
    assert torch.allclose(kernels.linear(Weights(matrix, None), x, narrow=True), torch.tensor(6400.0), rtol=1e-4)


def test_no_rows_give_no_rows(kernels: Native) -> None:
    weights = Weights(torch.randn(3, 8), None)
    assert kernels.linear(weights, torch.randn(2, 0, 8)).shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.randn(3, 8).double(), "know fp32 and codes with fp32 scales only"),
        (torch.randn(8, 3).T, "need contiguous tensors on the CPU"),
    ],
)
def test_weights_that_the_kernels_cannot_read_are_refused(matrix: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Weights(matrix, None)
