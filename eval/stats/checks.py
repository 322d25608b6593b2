"""One named demand on a number, and whether it is met."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """A value beside its bound."""

    name: str
    """Such as ``identity_mean``."""
    value: float
    """What was measured; NaN if nothing was."""
    relation: Literal[">=", "<=", ">"]
    """What the value must be to the bound."""
    bound: float
    """The threshold."""
    meaning: str
    """What it says of the judge if the demand is not met, in a few words."""

    @property
    def passed(self) -> bool:
        """Whether the demand is met; a value that was not measured meets none."""
        if math.isnan(self.value) or math.isnan(self.bound):
            return False
        if self.relation == ">":
            return self.value > self.bound
        return self.value >= self.bound if self.relation == ">=" else self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g}, must be {self.relation} {self.bound:.3g}: {self.meaning}"
