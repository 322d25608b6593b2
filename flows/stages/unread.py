"""Parts of the data that are prepared although no stage reads them."""

from __future__ import annotations

from collections.abc import Iterable

from flows.sources.parts import find_part
from flows.stages.every import STAGES


def describe_unread(parts: Iterable[str]) -> list[str]:
    """A sentence for each of these parts of the data that no stage asks for.

    Raises:
        ConfigError: a part is unknown.
    """
    asked = {name for stage in STAGES.values() for name in stage.parts}
    return [f"{find_part(name).title} are prepared, and no stage reads them" for name in parts if name not in asked]
