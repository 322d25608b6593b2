"""Who becomes champion: publishing after a gate, promoting by hand, and rolling back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from flows.registry.versions import (
    REPLACED,
    ROLLED_BACK,
    Aliases,
    ChampionChanged,
    ModelRegistry,
    RegistryError,
    Version,
)
from flows.tracking.provenance import user_name
from flows.tracking.runs import PREFIX

_PROMOTED = f"{PREFIX}.promoted"


def publish(registry: ModelRegistry, number: int, *, expected: int | None, reason: str) -> Version:
    """Make a version the champion, if the champion is still the one that it was compared with.

    That is ``expected``; None if there was none. The reason is kept with the version.

    Raises:
        ChampionChanged: another version is champion by now.
        RegistryError: the version does not exist.
    """
    with registry.hold():
        now = registry.aliases()
        if now.champion != expected:
            raise ChampionChanged(
                f"{registry.name} has version {now.champion} as champion, and version {number} was compared with "
                f"{expected}; compare it with the new one"
            )
        return _promote(registry, registry.version(number), now, by="gate", reason=reason)


def promote(registry: ModelRegistry, number: int, *, reason: str) -> Version:
    """Make a version the champion by a person's decision, whatever its gate decided.

    Raises:
        RegistryError: the version does not exist, it is champion already, or no reason is given.
    """
    if not reason.strip():
        raise RegistryError(
            f"a promotion of {registry.name} needs a reason, which is kept with the version: --reason TEXT"
        )
    with registry.hold():
        version, now = registry.version(number), registry.aliases()
        if now.champion == number:
            raise RegistryError(f"version {number} of {registry.name} is the champion already")
        return _promote(registry, version, now, by=user_name(), reason=reason)


def rollback(registry: ModelRegistry, *, reason: str) -> Version:
    """Roll back to the previous champion; the present one is not promoted by a gate any more.

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    with registry.hold():
        now = registry.aliases()
        if now.champion is None or now.previous is None:
            there = "no champion yet" if now.champion is None else f"no champion before version {now.champion}"
            raise RegistryError(f"{registry.name} has {there}; there is nothing to roll back to")
        back = registry.version(now.previous)
        earlier = back.tags.get(REPLACED, "")
        registry.move(replace(now, champion=back.number, previous=int(earlier) if earlier else None))
        registry.set_tags(now.champion, {ROLLED_BACK: f"{_now()} by {user_name()}: {reason}"})
        registry.mirror()
        return registry.version(back.number)


def _promote(registry: ModelRegistry, version: Version, now: Aliases, *, by: str, reason: str) -> Version:
    challenger = None if now.challenger == version.number else now.challenger
    registry.move(Aliases(champion=version.number, challenger=challenger, previous=now.champion))
    registry.set_tags(
        version.number,
        {
            _PROMOTED: f"{_now()} by {by}: {reason}",
            REPLACED: "" if now.champion is None else str(now.champion),
            ROLLED_BACK: "",
        },
    )
    registry.mirror()
    return registry.version(version.number)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
