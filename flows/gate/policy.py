"""What a challenger must show."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval.stats.bootstrap import CONFIDENCE

Measure = Literal["judge", "answers", "rouge_l", "accuracy", "text"]
"""judge: the judge's score of the answers, 0 to 100 · answers: bits per byte of the reference answers · rouge_l: of the
answers, 0 to 1 · accuracy: share of right classes · text: bits per byte of the held-out corpus."""

LOWER_IS_BETTER: frozenset[Measure] = frozenset({"answers", "text"})
UNITS: dict[Measure, str] = {
    "judge": "points",
    "answers": "bits/byte",
    "rouge_l": "F1",
    "accuracy": "share",
    "text": "bits/byte",
}
_ORDER: tuple[Measure, ...] = ("judge", "answers", "accuracy", "text")


class Budget(BaseModel):
    """What a compressed model may cost at most; what is None is not asked for."""

    model_config = ConfigDict(extra="forbid")

    max_bytes: int | None = Field(default=None, ge=1, description="Largest file of weights, in bytes")
    max_share: float | None = Field(default=None, gt=0, description="Largest size, as a share of the fp32 weights'")
    min_tokens_per_second: float | None = Field(default=None, gt=0, description="Slowest decoding of one prompt")
    max_increase: float | None = Field(default=None, ge=0, description="Largest relative rise of the perplexity")


class GatePolicy(BaseModel):
    """Floors, margins and budgets of a gate. A difference is always taken so that more is better for the challenger."""

    model_config = ConfigDict(extra="forbid")

    primary: Measure | Literal["auto"] = Field(
        default="auto",
        description="What must be better: auto takes the judge if one was asked, else answers, accuracy or text",
    )
    floors: dict[Measure, float] = Field(
        default={"answers": 8.0, "text": 8.0},
        description="Means that every model must reach, the first one too; 8 bits per byte is chance",
    )
    margins: dict[Measure, float] = Field(
        default={"judge": 2.0, "answers": 0.03, "accuracy": 0.03, "text": 0.03},
        description="How much worse a guardrail may be; a measure without a margin is shown and not asked for",
    )
    budgets: dict[str, Budget] = Field(
        default={}, description="Budgets of compressed variants, by their names; one that is named must exist"
    )
    confidence: float = Field(default=CONFIDENCE, gt=0.5, lt=1, description="Of the intervals")
    min_items: int = Field(default=10, ge=2, description="Fewer pairs of the primary measure decide nothing")
    max_items: int = Field(default=1000, ge=2, description="Items measured of each kind")
    max_responses: int = Field(default=110, ge=2, description="Answers generated, and judged where a judge is asked")
    require_approval: bool = Field(default=False, description="Whether a person has to agree to each promotion")
    seed: int = Field(default=1, description="Of the resampling")

    @field_validator("floors", "margins")
    @classmethod
    def _finite(cls, values: dict[Measure, float]) -> dict[Measure, float]:
        for name, value in values.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected 0 or more {UNITS[name]}, got {value}")
        return values

    def choose_primary(self, measured: set[Measure], *, judged: bool) -> Measure | None:
        """The measure that must be better: among those measured of both, the one that says most about answers."""
        if self.primary != "auto":
            return self.primary
        return next((name for name in _ORDER if name in measured and (name != "judge" or judged)), None)
