"""GPTQ: int4 codes that make up for each other's rounding on calibration text.

"GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", https://arxiv.org/abs/2210.17323:
the inputs of a layer are rounded one after another, and what each loses is spread over those that are not rounded yet,
by the inverse Hessian of the layer's squared output error. The inputs with the largest activations come first, on a
grid fixed beforehand by group (``--act-order --static-groups`` of the authors' code). The grid is that of
round-to-nearest, so the result is stored as ``Quantize(bits=4)`` stores it and every loader reads it.

Shapes: O outputs (rows), I inputs, G group size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptcore.compress.calibrate import Calibration, Moments
from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.nibbles import packed_nibbles
from gptcore.nn.surgery import merge_adapters
from gptcore.transforms.quantize import Quantize, QuantizedLinear, QuantizedMatrix

_LAZY = 128
"""Inputs that are rounded before the rest of the matrix is brought up to date, as in the paper's section 3.3."""
_DAMPINGS = (0.01, 0.1, 1.0)
"""Shares of the Hessian's mean diagonal that are added to it: the paper's, and more where that is not enough."""


@torch.no_grad()
def gptq(model: Network, calibration: Calibration, transform: Quantize) -> Network:
    """Quantize in place what ``transform`` would, the blocks' layers to calibrated codes.

    Raises:
        ConfigError: the transform is not of 4 bits, a weight is not finite, or the groups do not divide the inputs.
    """
    if transform.bits != 4:
        raise ConfigError(f"GPTQ is for 4 bits, not {transform.bits}: at 8 bits rounding to the nearest loses nothing")
    merge_adapters(model)
    matrices: dict[str, QuantizedMatrix] = {}

    def change(name: str, layer: nn.Linear, moments: Moments) -> nn.Module:
        matrices[name] = gptq_matrix(layer.weight.detach(), moments, group_size=transform.group_size)
        layer.weight.copy_(matrices[name].dense())  # what comes after sees the rounded layer
        return layer

    calibration.through(model, change)
    transform.apply(model)
    for name, matrix in matrices.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantizedLinear)
        layer.matrix = matrix
    return model


@torch.no_grad()
def gptq_matrix(weight: Tensor, moments: Moments, *, group_size: int) -> QuantizedMatrix:
    """Calibrated codes of ``weight`` (O, I) fp32.

    On the calibration inputs no row errs more than rounded to the nearest: one that would is left at that.

    Raises:
        ConfigError: a weight is not finite, or the inputs are not a multiple of the group size.
    """
    nearest = QuantizedMatrix(weight, bits=4, group_size=group_size)
    matrix = QuantizedMatrix(weight, bits=4, group_size=group_size)
    codes = _codes(weight, moments.gram, matrix)
    matrix.codes.copy_(packed_nibbles(codes))
    worse = output_error(weight, matrix, moments) > output_error(weight, nearest, moments)  # (O,)
    matrix.codes[worse] = nearest.codes[worse]
    return matrix


def output_error(weight: Tensor, matrix: QuantizedMatrix, moments: Moments) -> Tensor:
    """(O,) fp64: the mean squared error of each output on the calibration inputs."""
    lost = weight.double() - matrix.dense().double()
    return ((lost @ moments.gram.double()) * lost).sum(dim=1) / moments.n


def _codes(weight: Tensor, gram: Tensor, grid: QuantizedMatrix) -> Tensor:
    """(O, I) uint8."""
    order = gram.diagonal().argsort(descending=True, stable=True)
    groups = order // grid.group_size
    scales, minimums = grid.scales[:, groups], grid.minimums[:, groups]  # (O, I), in the order of rounding
    left = weight[:, order].clone()
    spread = _spread(gram[order][:, order])
    codes = torch.empty_like(left)
    n_inputs = left.shape[1]
    for start in range(0, n_inputs, _LAZY):
        end = min(start + _LAZY, n_inputs)
        errors = left.new_zeros(len(left), end - start)
        for i in range(start, end):
            codes[:, i] = ((left[:, i] - minimums[:, i]) / scales[:, i]).round().clamp(0, 15)
            rounded = codes[:, i] * scales[:, i] + minimums[:, i]
            error = (left[:, i] - rounded) / spread[i, i]
            left[:, i:end] -= error[:, None] * spread[i, i:end]
            errors[:, i - start] = error
        left[:, end:] -= errors @ spread[start:end, end:]
    return codes[:, order.argsort()].to(torch.uint8)


def _spread(gram: Tensor) -> Tensor:
    """(I, I) upper triangular: the Cholesky factor of the damped Hessian's inverse, the paper's step 3."""
    hessian = gram.double()
    diagonal = hessian.diagonal()
    silent = diagonal == 0
    for damping in _DAMPINGS:
        shift = damping * diagonal.mean().clamp(min=1e-12) + silent.double()  # an input that is always 0 costs nothing
        factor, failed = torch.linalg.cholesky_ex(hessian + torch.diag(shift.expand_as(diagonal)))
        if int(failed) == 0:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if int(failed) == 0:
                spread: Tensor = upper.to(gram.dtype)
                return spread
    raise ConfigError(
        "the activations of the calibration text have no usable Hessian; raise compress.calibration_samples, or check "
        "the model for NaN"
    )
