"""Weighing: how the parts of an objective's loss become one value, each with a denominator of its own.

Sums and counts are lists with one number for each part, in the order of ``Objective.weights``, so that processes can
add them up without knowing names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gptcore.batch import Batch, Loss
from gptcore.errors import ConfigError
from gptcore.objectives.base import Objective


@dataclass(frozen=True)
class Weighing:
    """The parts of an objective and their weights."""

    objective: Objective

    @cached_property
    def weights(self) -> dict[str, float]:
        """Weight of each part.

        Raises:
            ConfigError: there is no part.
        """
        weights = self.objective.weights()
        if not weights:
            raise ConfigError(f"{self._kind}.weights() names no part; expected one or more parts of the loss")
        return weights

    def counts(self, batches: Sequence[Batch]) -> list[int]:
        """The items of each part in some batches.

        Raises:
            ConfigError: a part is counted that has no weight.
        """
        found = dict.fromkeys(self.weights, 0)
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                if name not in found:
                    raise ConfigError(
                        f"{self._kind}.counts names the part {name!r}; expected one of {', '.join(self.weights)}, "
                        "the parts that weights() names"
                    )
                found[name] += count
        return list(found.values())

    def scales(self, counts: Sequence[int], *, world_size: int) -> list[float]:
        """What the sum of each part is multiplied by, from its items in the whole batch.

        Each process's gradient is averaged with the others', hence ``world_size``. A part without items is not left
        out of the sum but counts nothing: processes wait for a gradient of each weight.
        """
        pairs = zip(self.weights.values(), counts, strict=True)
        return [weight * world_size / count if count else 0.0 for weight, count in pairs]

    def scale(self, loss: Loss, scales: Sequence[float]) -> Tensor:
        """() what is differentiated: the parts times their scales, added up.

        Raises:
            ConfigError: a part is missing, unknown, or does not hang on any trained weight.
        """
        if loss.parts.keys() != self.weights.keys() or not all(part.requires_grad for part in loss.parts.values()):
            raise ConfigError(self._wrong(loss))
        first, *others = (loss.parts[name] * scale for name, scale in zip(self.weights, scales, strict=True))
        return sum(others, start=first)

    def _wrong(self, loss: Loss) -> str:
        got = {name: "" if part.requires_grad else " (without a gradient)" for name, part in loss.parts.items()}
        return (
            f"{self._kind} expected the parts {', '.join(self.weights)}, got "
            f"{', '.join(f'{name}{more}' for name, more in got.items()) or 'none'}; while training every part must be "
            "there and depend on a trained weight, also where the batch has no item of it: a sum over no rows does"
        )

    def sums(self, loss: Loss) -> list[float]:
        """The value of each part; one that is missing in an evaluation is 0."""
        return [float(loss.parts[name].detach()) if name in loss.parts else 0.0 for name in self.weights]

    def means(self, sums: Sequence[float], counts: Sequence[int]) -> dict[str, float]:
        """The mean of each part that has items."""
        return {name: total / count for name, total, count in zip(self.weights, sums, counts, strict=True) if count}

    def mean(self, sums: Sequence[float], counts: Sequence[int]) -> float:
        """The loss: the means of the parts that have items, weighted and added up."""
        return sum(self.weights[name] * mean for name, mean in self.means(sums, counts).items())

    def metrics(self, sums: Sequence[float], counts: Sequence[int], *, place: str = "") -> dict[str, float]:
        """``loss``, and ``loss/<part>`` beside it where there is more than one part, behind the name of a place."""
        means = self.means(sums, counts) if len(self.weights) > 1 else {}
        return {f"{place}loss": self.mean(sums, counts), **{f"{place}loss/{name}": means[name] for name in means}}

    @property
    def _kind(self) -> str:
        return type(self.objective).__name__
