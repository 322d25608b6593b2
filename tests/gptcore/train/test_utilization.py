"""What a step's arithmetic needs, against torch's own count of it and the plan's formula; the machine's rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gptcore.models import PRESETS, GPTConfig
from gptcore.models.base import Model
from gptcore.scaling import flops_per_token
from gptcore.train.parallel import Parallel
from gptcore.train.utilization import ceiling, gemm_rate
from gptcore.transforms import Classifier, LoRA

CONFIG = GPTConfig(vocab_size=1024, context_length=64, width=48, n_layers=3, n_heads=4)
ROWS, LENGTH = 5, 64


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model,
        LoRA(rank=4).apply,
        Classifier(labels=("a", "b"), train="last_blocks", n_blocks=1).apply,
        Classifier(labels=("a", "b"), train="head").apply,
    ],
    ids=["whole", "adapters", "last-block", "head"],
)
def test_the_work_is_what_torch_counts_in_the_passes(change: Callable[[Model], Model]) -> None:
    model = change(CONFIG.build())
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(1024, (ROWS, LENGTH))).sum().backward()
    work, n_tokens = model.operations(), ROWS * LENGTH
    attention = work.per_pair * n_tokens * LENGTH  # which torch does not count on a CPU
    told = work.flop(n_tokens=n_tokens, n_items=n_tokens, n_rows=ROWS) - attention
    assert told == pytest.approx(counter.get_total_flops(), rel=0.05)  # biases and norms are not products


@pytest.mark.parametrize("name", ["micro", "mini", "gpt2-small"])
def test_the_work_of_a_whole_model_is_that_of_the_plan(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        work = config.build().operations()
    length = config.context_length
    told = work.flop(n_tokens=8 * length, n_items=8 * length, n_rows=8)
    assert told == pytest.approx(8 * length * flops_per_token(config), rel=1e-3)


def test_what_is_no_target_needs_no_head_and_short_rows_little_attention() -> None:
    work = CONFIG.build().operations()
    few = work.flop(n_tokens=320, n_items=10, n_rows=5)
    assert work.flop(n_tokens=320, n_items=320, n_rows=5) - few == pytest.approx(310 * 6 * 1024 * 48)
    short = work.flop(n_tokens=320, n_items=10, n_rows=40)
    assert few - short == pytest.approx(320 * (64 - 8) * 12 * 3 * 48)


def test_the_machines_rate_is_measured_once_and_draws_from_no_stream() -> None:
    before = torch.get_rng_state()
    rate = gemm_rate(torch.device("cpu"), torch.float32)
    assert rate > 1e8
    assert ceiling(Parallel(torch.device("cpu")), precision="fp32") == rate  # the very same measurement
    assert torch.equal(torch.get_rng_state(), before)
