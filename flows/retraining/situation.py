"""What a check finds, and whether to train: values and a pure function of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flows.retraining.drift import Drift
from flows.retraining.policy import RetrainPolicy

_Train = Literal[
    "first", "forced", "resumed", "settings", "sources", "code", "data_removed", "new_data", "stale", "drift"
]
_Hold = Literal["judge_again", "unfinished", "new_champion"]
_Skip = Literal["late", "unchanged", "decided", "waits", "rolled_back", "too_little"]
Cause = _Train | _Hold | _Skip
"""Why a chain is trained, or only compared with a champion again, or neither."""


@dataclass(frozen=True)
class EarlierGate:
    """What was decided on the version that this chain gives."""

    number: int
    verdict: str
    """Of its gate; empty if none was held."""
    reason: str
    against: int | None
    """The champion of its gate."""
    rolled_back: str
    """When and why it was rolled back; empty if it was not."""
    again: bool
    """Whether its gate may end otherwise now: a judge had failed its controls."""


@dataclass(frozen=True)
class Situation:
    """What a check finds."""

    model: str
    key: str
    """Of the chain as it would be trained now."""
    champion: int | None = None
    champion_key: str = ""
    champion_days: float = 0.0
    """Age of the champion."""
    tried: EarlierGate | None = None
    """The version that this chain gives, if it was made before."""
    last: int | None = None
    """The newest version: what is new is counted from it."""
    settings_changed: bool = False
    sources_changed: tuple[str, ...] = ()
    """Sources beside the added data whose content is another one, or that are new or gone."""
    new_files: int = 0
    new_characters: int = 0
    new_rows: Mapping[str, int] = field(default_factory=dict)
    """Kind -> added rows."""
    removed_files: int = 0
    """Added files that are in use no more."""
    drift: Drift | None = None
    """None: not measured."""


@dataclass(frozen=True)
class Why:
    """Whether to train, and why."""

    run: bool
    cause: Cause
    text: str


def why(found: Situation, policy: RetrainPolicy, *, force: bool = False, resumed: bool = False) -> Why:
    """Whether to train now.

    ``force`` trains whatever the thresholds and earlier gates say; an unchanged chain stays unchanged. ``resumed`` says
    that this run is a resumed one.
    """
    if found.champion is not None and found.key == found.champion_key:
        text = (
            f"nothing has changed since version {found.champion}, the champion: the same data, settings and code would "
            "give the same model; add data (gptworks data add), or change a setting, as seed"
        )
        return Why(False, "unchanged", text)
    if resumed and found.tried is not None:
        return Why(True, "resumed", f"resuming version {found.tried.number}, which this run has registered")
    if force:
        return Why(True, "forced", "asked for by force")
    if found.tried is not None:
        return _explain_earlier(found, found.tried)
    if found.last is None:
        return Why(True, "first", f"{found.model} has no version yet")
    return _explain_change(found) or _explain_growth(found, policy)


def _explain_earlier(found: Situation, tried: EarlierGate) -> Why:
    """What follows from an earlier gate of this very chain."""
    name = f"version {tried.number}, which this chain gives,"
    if tried.rolled_back:
        text = f"{name} was rolled back: {tried.rolled_back}; promote it by hand: gptworks promote {tried.number}"
        return Why(False, "rolled_back", text)
    if not tried.verdict:
        return Why(True, "unfinished", f"{name} was not compared yet")
    if tried.against != found.champion:
        return Why(True, "new_champion", f"{name} was compared with another champion than version {found.champion}")
    if tried.verdict == "promote":
        return Why(True, "unfinished", f"{name} passed its gate, and is not champion yet")
    if tried.again:
        return Why(True, "judge_again", f"{name} could not be judged: {tried.reason}")
    if tried.verdict == "needs_approval":
        return Why(False, "waits", f"{name} waits for approval: gptworks promote {tried.number} --reason TEXT")
    champion = "the floors" if tried.against is None else f"champion {tried.against}"
    return Why(False, "decided", f"{name} was compared with {champion} before: {tried.verdict}, {tried.reason}")


def _explain_change(found: Situation) -> Why | None:
    if found.settings_changed:
        return Why(True, "settings", f"the settings differ from those of version {found.last}")
    if found.sources_changed:
        names = ", ".join(found.sources_changed[:5]) + (", ..." if len(found.sources_changed) > 5 else "")
        return Why(True, "sources", f"sources differ from those of version {found.last}: {names}")
    if found.removed_files:
        return Why(True, "data_removed", f"{found.removed_files} added file(s) of version {found.last} were removed")
    if not found.new_files:
        return Why(True, "code", f"the code of a stage is newer than version {found.last}")
    return None


def _explain_growth(found: Situation, policy: RetrainPolicy) -> Why:
    rows = sum(found.new_rows.values())
    grown = f"{found.new_characters:,} new characters and {rows:,} new rows since version {found.last}"
    if found.new_characters >= policy.min_new_characters or rows >= policy.min_new_rows:
        return Why(True, "new_data", grown)
    if policy.max_age_days is not None and found.champion is not None and found.champion_days > policy.max_age_days:
        age = f"the champion is {found.champion_days:.0f} days old (at most {policy.max_age_days:g})"
        return Why(True, "stale", f"{age}, and there are {grown}")
    if found.drift is not None and found.drift.reasons:
        return Why(True, "drift", f"the new data has drifted from the champion's: {'; '.join(found.drift.reasons)}")
    needed = f"needed: {policy.min_new_characters:,} characters or {policy.min_new_rows:,} rows"
    looked = "; no drift from the champion's data" if found.drift is not None else ""
    return Why(False, "too_little", f"only {grown} ({needed}){looked}")
