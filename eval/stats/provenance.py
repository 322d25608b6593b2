"""May two runs be compared? Only if the same instrument judged the same items."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eval.errors import IncomparableError

ABSENT = "absent"
"""Stands for a value that one of the two runs does not have."""

NOT_THE_INSTRUMENT = ("seed", "comparable_group")
"""Provenance that cannot change a score: the bootstrap's seed, and a digest of what is compared field by field."""


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ."""

    name: str
    """Where it stands, such as ``judge.client.options.num_ctx``."""
    first: Any
    """Its value in the first run, or ``ABSENT``."""
    second: Any
    """Its value in the second run, or ``ABSENT``."""

    def __str__(self) -> str:
        return f"{self.name}: {self.first!r} against {self.second!r}"


def find_provenance_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], *, ignore: Collection[str] = NOT_THE_INSTRUMENT
) -> list[Difference]:
    """In what two runs' provenances (``Report.provenance``) differ, by name.

    ``ignore`` holds names, dotted where nested; everything that is not named there counts, so that a setting which
    someone adds later is compared without anybody remembering to.
    """
    return [one for one in _find_differences(first, second, prefix="") if one.name not in ignore]


def check_comparable(
    first: Mapping[str, Any], second: Mapping[str, Any], *, ignore: Collection[str] = NOT_THE_INSTRUMENT
) -> None:
    """Raise IncomparableError, listing every difference with both values, unless both were judged alike."""
    for name, provenance in (("first", first), ("second", second)):
        if not provenance:
            raise IncomparableError(
                f"nothing is known of how the {name} run was judged, so nothing can be said of a difference; judge it"
                " again with this version, which records its instrument"
            )
    found = find_provenance_differences(first, second, ignore=ignore)
    if found:
        listed = "\n".join(f"  {one}" for one in found)
        raise IncomparableError(
            f"the runs cannot be compared: they differ in {len(found)} thing(s) that can change a score\n{listed}\n"
            "judge one of them again as the other was"
        )


def _find_differences(first: Mapping[str, Any], second: Mapping[str, Any], *, prefix: str) -> Iterator[Difference]:
    for key in sorted({*first, *second}):
        a, b = first.get(key, ABSENT), second.get(key, ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _find_differences(a, b, prefix=f"{prefix}{key}.")
        elif a != b:
            yield Difference(f"{prefix}{key}", a, b)
