"""What a sweep varies, and which values it tries next: every combination, or what Optuna proposes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from gptcore.errors import ConfigError

if TYPE_CHECKING:
    import optuna

Values = dict[str, str]
"""Path of a setting -> value, as in ``--set``."""
_FORM = "path=a,b,c for values, or path=low:high for numbers between (path=low:high:log, path=low:high:int)"


@dataclass(frozen=True)
class Dimension:
    """One setting that is varied."""

    path: str
    """Its dotted name."""
    choices: tuple[str, ...] = ()
    """The values, or empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether a range is drawn by its logarithm."""
    whole: bool = False
    """Whether a range holds whole numbers alone."""


def parse_dimension(text: str) -> Dimension:
    """A dimension from ``--vary``.

    Raises:
        ConfigError: it has another form, or the range is empty.
    """
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise ConfigError(f"--vary: expected {_FORM}; got {text!r}")
    if ":" not in values:
        choices = tuple(value.strip() for value in values.split(","))
        if len(set(choices)) < len(choices) or "" in choices:
            raise ConfigError(f"--vary {text!r} has a value twice, or an empty one")
        return Dimension(path.strip(), choices)
    low, high, *kinds = values.split(":")
    try:
        bounds = float(low), float(high)
    except ValueError as error:
        raise ConfigError(f"--vary: expected {_FORM}; got {text!r}") from error
    if not bounds[0] < bounds[1] or set(kinds) - {"log", "int"} or ("log" in kinds and bounds[0] <= 0):
        raise ConfigError(f"--vary: expected {_FORM}, low below high, and above 0 with log; got {text!r}")
    return Dimension(path.strip(), (), *bounds, log="log" in kinds, whole="int" in kinds)


class Proposer(Protocol):
    """Proposes trials and learns from their results (ask and tell)."""

    def ask(self) -> tuple[int, Values] | None:
        """The next trial's number and values; None when there are no more."""
        ...

    def tell(self, number: int, objective: float | None) -> None:
        """What came of a trial; None if it failed."""
        ...

    def add_trial(self, values: Values, objective: float | None) -> None:
        """Take in a trial of an earlier attempt; in their order, before the first ask."""
        ...


class Grid:
    """Every combination of the values, the last setting changing fastest."""

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        """Of dimensions that have choices."""
        for dimension in dimensions:
            if not dimension.choices:
                raise ConfigError(
                    f"{dimension.path} is varied over a range, which has no grid; give the number of trials: --trials"
                )
        combinations = itertools.product(*(dimension.choices for dimension in dimensions))
        self._all = [dict(zip((d.path for d in dimensions), values, strict=True)) for values in combinations]
        self._next = 0

    def ask(self) -> tuple[int, Values] | None:
        """The next combination."""
        if self._next == len(self._all):
            return None
        self._next += 1
        return self._next - 1, self._all[self._next - 1]

    def tell(self, number: int, objective: float | None) -> None:
        """A grid learns nothing."""

    def add_trial(self, values: Values, objective: float | None) -> None:
        """Skip a combination that was tried."""
        del objective
        self._next += self._next < len(self._all) and self._all[self._next] == values


class Study:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011)."""

    def __init__(self, dimensions: Sequence[Dimension], *, trials: int, maximize: bool, seed: int) -> None:
        """Of at most ``trials`` trials.

        Raises:
            ConfigError: the ``sweep`` extra is not installed.
        """
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                f"a search needs Optuna ({error}); pip install 'gptworks[sweep]', or leave --trials out for a grid"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {dimension.path: _distribution(dimension) for dimension in dimensions}
        self._left = trials
        direction: Literal["maximize", "minimize"] = "maximize" if maximize else "minimize"
        # with several at once, those under way count as bad, so that the next one goes elsewhere
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(direction=direction, sampler=sampler)
        self._asked: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, Values] | None:
        """What Optuna proposes."""
        if self._left == 0:
            return None
        self._left -= 1
        trial = self._study.ask(self._space)
        self._asked[trial.number] = trial
        return trial.number, {path: str(value) for path, value in trial.params.items()}

    def tell(self, number: int, objective: float | None) -> None:
        """Have Optuna learn."""
        import optuna

        failed = objective is None or math.isnan(objective)
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
        self._study.tell(self._asked.pop(number), None if failed else objective, state=state)

    def add_trial(self, values: Values, objective: float | None) -> None:
        """Have Optuna learn from a trial of an earlier attempt."""
        import optuna

        state = optuna.trial.TrialState.FAIL if objective is None else optuna.trial.TrialState.COMPLETE
        params = {path: _value(self._space[path], text) for path, text in values.items()}
        self._study.add_trial(
            optuna.trial.create_trial(params=params, distributions=self._space, value=objective, state=state)
        )
        self._left = max(0, self._left - 1)


def propose(dimensions: Sequence[Dimension], *, trials: int | None, maximize: bool, seed: int) -> Proposer:
    """A grid without ``trials``, else a search.

    Raises:
        ConfigError: nothing is varied, one setting twice, or a range without ``trials``.
    """
    paths = [dimension.path for dimension in dimensions]
    if not paths or len(set(paths)) < len(paths):
        raise ConfigError(f"a sweep varies at least one setting, and each once (--vary {_FORM}); got {paths}")
    return Grid(dimensions) if trials is None else Study(dimensions, trials=trials, maximize=maximize, seed=seed)


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.whole:
        return IntDistribution(round(dimension.low), round(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _value(distribution: optuna.distributions.BaseDistribution, text: str) -> str | int | float:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return text
    return int(text) if isinstance(distribution, IntDistribution) else float(text)


def best(trials: Sequence[Mapping[str, object]], *, maximize: bool) -> Mapping[str, object] | None:
    """The trial with the best objective; None if all failed."""
    scored = [trial for trial in trials if isinstance(trial["objective"], float)]
    sign = -1 if maximize else 1
    return min(scored, key=lambda trial: sign * float(str(trial["objective"])), default=None)
