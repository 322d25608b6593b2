"""Decoding beside transformers: the same prompts for all, and targets that compare what is measured."""

from __future__ import annotations

import pytest

from benchmarks.decode import VOCABULARY, build, prompts_of, size_of
from benchmarks.options import Options, parse, shared_parser

WHAT = ("batch-1", "batch-32", "classify")


def options(what: str, *more: str) -> Options:
    found = parse(shared_parser("", steps=1), list(more))
    found.what = what
    return found


@pytest.mark.parametrize("what", WHAT)
def test_targets_compare_what_is_measured(what: str) -> None:
    work = build(options(what))
    names = [each.name for each in work.implementations]
    assert len(names) == len(set(names))
    assert work.targets
    assert {name for target in work.targets for name in (target.ours, target.peer)} <= set(names)


@pytest.mark.parametrize("what", WHAT)
def test_prompts_are_those_of_the_seed_and_of_the_sizes_told(what: str) -> None:
    first, again, other = (prompts_of(options(what, "--seed", seed)) for seed in ("1", "1", "2"))
    assert first == again != other
    size = size_of(options(what))
    assert len(first) == size.n_prompts
    assert all(size.shortest <= len(prompt) <= size.longest for prompt in first)
    assert all(0 <= token < VOCABULARY for prompt in first for token in prompt)
    if size.shortest < size.longest:
        assert len({len(prompt) for prompt in first}) > 10


@pytest.mark.parametrize("what", WHAT)
def test_a_smoke_run_is_a_toy(what: str) -> None:
    toy = options(what, "--smoke")
    assert sum(map(len, prompts_of(toy))) + size_of(toy).n_new * size_of(toy).n_prompts < 40
