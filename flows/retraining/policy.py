"""When a chain is retrained."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RetrainPolicy(BaseModel):
    """Thresholds; changed settings, sources or code are a reason by themselves."""

    model_config = ConfigDict(extra="forbid")

    min_new_characters: int = Field(default=20_000, ge=1, description="Of added texts and rows, since the last version")
    min_new_rows: int = Field(default=100, ge=1, description="Of added rows, whatever their part; either suffices")
    max_age_days: float | None = Field(
        default=30.0,
        gt=0,
        description="A champion older than this many days is retrained on less new data, too; None: never",
    )
    drift: bool = Field(default=True, description="Whether drift is measured where new data is too little by size")
    max_loss_increase: float = Field(
        default=0.1, gt=0, description="Rise of the champion's bits per byte on new texts that counts as drift"
    )
    max_psi: float = Field(
        default=0.2, gt=0, description="Population stability index of the lengths of texts that counts as drift"
    )
    max_token_distance: float = Field(
        default=0.3, gt=0, le=1, description="Jensen-Shannon distance of token frequencies that counts as drift, 0 to 1"
    )
    level: float = Field(default=0.01, gt=0, lt=0.5, description="Significance level of the drift tests")
    max_lateness_minutes: float = Field(
        default=180.0, gt=0, description="A scheduled run that starts later than this skips itself"
    )
    notify: str | None = Field(
        default=None, description="Prefect block that is notified of each outcome but a skip, as slack-webhook/ops"
    )
    approval_hours: float = Field(
        default=24.0, gt=0, description="How long a deployed run waits for a person, where the gate asks for one"
    )
