"""The update's size is that of the weights' change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gptcore.train.parallel import Parallel
from gptcore.train.update_size import copy_sample, pick_sample, update_ratio


def test_the_ratio_is_the_norm_of_the_change_over_the_norm_before() -> None:
    parameters = [nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.ones(5))]
    before = copy_sample(parameters)
    with torch.no_grad():
        parameters[0].add_(0.03)
        parameters[1].add_(9.0)  # a vector is not asked
    assert update_ratio(parameters, before, Parallel(torch.device("cpu"))) == pytest.approx(0.01, rel=1e-4)


def test_matrices_are_taken_from_the_whole_depth_and_not_the_largest() -> None:
    parameters = [nn.Parameter(torch.empty(2**13, 2**12, device="meta")), nn.Parameter(torch.zeros(3))]
    parameters += [nn.Parameter(torch.full((1, 1), float(i))) for i in range(10)]
    assert [float(tensor) for tensor in pick_sample(parameters)] == [0.0, 3.0, 6.0, 9.0]


def test_weights_that_are_all_zero_give_no_ratio() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    assert update_ratio(parameters, copy_sample(parameters), Parallel(torch.device("cpu"))) == 0.0


def test_of_a_large_matrix_rows_at_even_distances_are_copied() -> None:
    large = nn.Parameter(torch.randn(4096, 256))
    [rows] = copy_sample([large])
    assert rows.shape == (1024, 256)
    assert torch.equal(rows, large[::4])
    with torch.no_grad():
        large *= 1.01
    assert update_ratio([large], [rows], Parallel(torch.device("cpu"))) == pytest.approx(0.01, rel=1e-3)
