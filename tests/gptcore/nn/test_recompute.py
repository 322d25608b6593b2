"""A recomputed activation gives the same gradients and is not kept."""

from __future__ import annotations

import gc
import weakref

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from gptcore.nn.recompute import through


def test_gradients_are_those_of_the_plain_order() -> None:
    torch.manual_seed(0)
    layer, norm = nn.Linear(8, 4), nn.LayerNorm(8)
    x = torch.randn(2, 3, 8, requires_grad=True)
    plain = layer(norm(x))
    wanted = torch.autograd.grad(plain.square().sum(), [x, *layer.parameters(), *norm.parameters()])
    lean = through(layer, norm, x)
    found = torch.autograd.grad(lean.square().sum(), [x, *layer.parameters(), *norm.parameters()])
    assert torch.equal(plain, lean)
    for a, b in zip(wanted, found, strict=True):
        assert torch.equal(a, b)


def test_the_activation_is_not_kept_while_its_input_is() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    x = torch.randn(4, 16, 64, requires_grad=True)
    made: list[StorageWeakRef] = []

    def gelu(value: Tensor) -> Tensor:
        result = F.gelu(value)
        made.append(StorageWeakRef(result.untyped_storage()))
        return result

    y = through(layer, gelu, x)
    gc.collect()
    assert made[0].expired()
    kept = layer(gelu(x))
    assert not made.pop().expired()  # the plain order keeps it
    del kept
    y.sum().backward()
    assert len(made) == 2  # once more for the weight's gradient


def test_a_graph_that_is_never_used_is_freed() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(2, 8, requires_grad=True).exp()
    seen = weakref.ref(x)
    y = through(lambda z: F.softmax(layer(z), dim=-1), F.gelu, x)  # softmax keeps its own output
    del x, y
    gc.collect()
    assert seen() is None


def test_without_gradients_nothing_is_hooked() -> None:
    with torch.no_grad():
        assert through(nn.Linear(4, 4), F.gelu, torch.ones(1, 4)).shape == (1, 4)
