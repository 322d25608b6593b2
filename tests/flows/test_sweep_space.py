"""What a sweep tries, and in which order."""

from __future__ import annotations

import math

import pytest

from flows.sweep.space import Dimension, Grid, Proposer, Study, Values, best, parse_dimension, propose
from gptcore.errors import ConfigError


def _far(values: Values) -> float:
    return abs(math.log10(float(values["lr"])) + 3)


def drain(space: Proposer) -> list[Values]:
    """Ask until nothing is left, with an objective that is smallest at lr 0.001."""
    asked = []
    while (each := space.ask()) is not None:
        number, values = each
        asked.append(values)
        space.tell(number, _far(values))
    return asked


def test_dimensions_are_read_as_they_are_written() -> None:
    assert parse_dimension("a.b=1, 2") == Dimension("a.b", ("1", "2"))
    assert parse_dimension("a=1e-4:1e-2:log") == Dimension("a", (), 1e-4, 1e-2, log=True)
    assert parse_dimension("a=2:8:int") == Dimension("a", (), 2.0, 8.0, whole=True)


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=1,1", "a=1,,2", "a=2:1", "a=0:1:log", "a=x:y", "a=1:2:sine"])
def test_a_dimension_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--vary"):
        parse_dimension(text)


def test_a_grid_has_every_combination_once() -> None:
    dimensions = [parse_dimension("lr=1,2"), parse_dimension("w=3,4,5")]
    asked = drain(propose(dimensions, trials=None, maximize=False, seed=1))
    assert asked == [{"lr": lr, "w": w} for lr in ("1", "2") for w in ("3", "4", "5")]


def test_a_grid_goes_on_where_it_was() -> None:
    dimensions = [parse_dimension("lr=1,2,3")]
    again = Grid(dimensions)
    again.add_trial({"lr": "1"}, 0.5)
    assert drain(again) == [{"lr": "2"}, {"lr": "3"}]


@pytest.mark.parametrize(
    ("vary", "trials", "message"),
    [
        ([], None, "at least one setting"),
        (["a=1", "a=2"], None, "each once"),
        (["a=1:2"], None, "has no grid; give the number of trials: --trials"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(vary: list[str], trials: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        propose([parse_dimension(text) for text in vary], trials=trials, maximize=False, seed=1)


def test_a_search_stays_in_its_space_and_comes_nearer() -> None:
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    dimensions = [parse_dimension("lr=1e-5:1:log"), parse_dimension("n=1:4:int"), parse_dimension("k=a,b")]
    asked = drain(propose(dimensions, trials=40, maximize=False, seed=1))
    assert len(asked) == 40
    assert {values["n"] for values in asked} <= {"1", "2", "3", "4"}
    assert {values["k"] for values in asked} <= {"a", "b"}
    assert all(1e-5 <= float(values["lr"]) <= 1 for values in asked)
    near = [_far(values) for values in asked]
    assert sorted(near[20:])[10] < sorted(near[:10])[5], "the later half is nearer than where it began"


def test_a_search_goes_on_with_what_it_knows() -> None:
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    study = Study([parse_dimension("lr=1e-5:1:log")], trials=3, maximize=False, seed=1)
    study.add_trial({"lr": "0.1"}, 0.7)
    study.add_trial({"lr": "0.2"}, None)
    assert len(drain(study)) == 1


def test_the_best_trial_is_the_one_wanted() -> None:
    trials = [{"n": 0, "objective": 2.0}, {"n": 1, "objective": None}, {"n": 2, "objective": 1.0}]
    assert best(trials, maximize=False) == trials[2]
    assert best(trials, maximize=True) == trials[0]
    assert best(trials[1:2], maximize=True) is None
