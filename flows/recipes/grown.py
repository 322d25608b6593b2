"""A source that grows: what a preset or a user's own files give, and the data that was added since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import cast

from flows.recipes.resolve import with_own_data
from flows.sources.added import Added, DataFolder, read_added_documents, read_added_rows
from flows.sources.base import Places, Row, SourceConfig, SourceEstimate
from flows.sources.parts import CORPUS, Part, find_kind, list_parts
from flows.stages.pipeline import Pipeline
from gptcore.config import set_by_path
from gptcore.data import Document
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError


@dataclass(frozen=True)
class Grown(SourceConfig):
    """A source, and one state of the added data."""

    base: SourceConfig | None = None
    """What there was before; None for the added data alone."""
    snapshot: str = ""
    """Digest of the state."""
    kinds: tuple[str, ...] = ()
    """The kinds of data in it."""

    def __post_init__(self) -> None:
        """Refuse a kind that nobody knows: its rows would be left out in silence."""
        for kind in self.kinds:
            find_kind(kind)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that either has."""
        had = self.base.parts if self.base else ()
        return tuple(part.name for part in list_parts() if part.name in had or part.kind in self.kinds)

    def digests(self, places: Places) -> dict[str, str]:
        """Those of the source, and the sha256 of every added file."""
        base = self.base.digests(places) if self.base else {}
        return base | {entry.name: entry.sha256 for entry in self._entries(places)}

    def estimate(self, places: Places) -> SourceEstimate:
        """From the base's own, and what was counted when files were added."""
        base = self.base.estimate(places) if self.base else SourceEstimate(0, {}, {})
        rows, row_chars = dict(base.rows), dict(base.row_chars)
        for part in list_parts():
            own = self._entries(places, part.kind)
            if own:
                rows[part.name] = rows.get(part.name, 0) + sum(entry.n_items for entry in own)
                row_chars[part.name] = row_chars.get(part.name, 0) + sum(entry.n_chars for entry in own)
        corpus = base.corpus_chars + sum(entry.n_chars for entry in self._entries(places, CORPUS))
        return SourceEstimate(corpus or sum(row_chars.values()), rows, row_chars, base.seconds)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document] | None:
        """The base's texts, then the added ones; a near duplicate of an earlier text is dropped as everywhere."""
        base = self.base.documents(places, ledger) if self.base else None
        own = self._entries(places, CORPUS)
        if not own:
            return base
        return chain(base or (), read_added_documents(_folder(places), own))

    def rows(self, part: Part, places: Places) -> Iterator[Row] | None:
        """The base's rows, then the added ones."""
        base = self.base.rows(part, places) if self.base else None
        own = self._entries(places, part.kind)
        if not own:
            return base
        return chain(base or (), read_added_rows(_folder(places), own))

    def _entries(self, places: Places, kind: str | None = None) -> list[Added]:
        entries = _folder(places).snapshot(self.snapshot)
        # by content: the order in which files were added changes nothing
        return sorted((e for e in entries if kind in (None, e.kind)), key=lambda entry: entry.sha256)


def with_added_data(config: Pipeline, folder: DataFolder, *, snapshot: str | None, alone: bool = False) -> Pipeline:
    """The same chain with the added data; as it is if there is none.

    Args:
        config: the chain.
        folder: the added data.
        snapshot: which state of it; None if nothing was added.
        alone: leave out the chain's own source.

    Raises:
        ConfigError: the added data alone is asked for, and there is none.
        DataError: there is no such state.
    """
    if snapshot is None:
        if alone:
            raise ConfigError("no data was added yet; add some: gptworks data add PATH...")
        return config
    entries = folder.snapshot(snapshot)
    if alone:  # the shares of the corpus become those of own data
        config = with_own_data(config, corpus=[folder.path(entry) for entry in entries if entry.kind == CORPUS])
    kinds = tuple(sorted({entry.kind for entry in entries}))
    source = Grown(base=None if alone else config.prepare.source, snapshot=snapshot, kinds=kinds)
    return cast(Pipeline, set_by_path(config, "prepare.source", source))


def without_added_data(source: SourceConfig) -> SourceConfig | None:
    """What a source was before data was added."""
    return source.base if isinstance(source, Grown) else source


def _folder(places: Places) -> DataFolder:
    if places.added is None:
        raise ConfigError("the added data has no folder here; a chain reads it below GPTWORKS_HOME")
    return DataFolder(places.added)
