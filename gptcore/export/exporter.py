"""How a checkpoint is written for another program, and the one step that holds what was written against the model.

Shapes: T positions, V outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.errors import CheckpointError, ConfigError, DataError, ExportMismatch
from gptcore.export.equality import Agreement, agreement, probe
from gptcore.export.places import check_place
from gptcore.export.registry import REGISTERED, Export
from gptcore.files import whole_folder
from gptcore.models import WordNetwork
from gptcore.models.blueprint import require_plain
from gptcore.models.network import as_words
from gptcore.nn import merge_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence


class Job(NamedTuple):
    """One export that is under way."""

    source: Path
    """The checkpoint's folder."""
    out: str
    """Where to, as it was asked for."""
    loaded: Loaded
    """The checkpoint."""
    say: Callable[[str], object]
    """Told what is going on."""


class Outputs(NamedTuple):
    """What a model gives for the texts or tokens on which it is compared."""

    numbers: Tensor | None
    """(T, V), such as logits; None where the form gives none."""
    texts: tuple[str, ...] = ()
    """Such as answers, or the names of classes; these must be the same to the letter."""


class Exported(NamedTuple):
    """What has been published."""

    place: str
    """Where it is, in words."""
    agreement: Agreement | None
    """How close its numbers are to the checkpoint's; None where it gives none."""
    unread: str
    """Why it was not read back; empty where it was."""


class Exporter:
    """Base of all exporters; the settings of its ``Export`` are its fields, texts all of them.

    Whoever adds one writes ``write`` and ``read``; ``write_export`` does the rest.
    """

    marks: ClassVar[tuple[str, ...]] = ()
    """Files that every folder of this form has: an earlier export is known by them, and may be replaced."""
    others: ClassVar[tuple[str, ...]] = ()
    """Names, or patterns of names, that it may have besides."""
    unread: ClassVar[str] = ""
    """Why what is written cannot be read back; then ``read`` is never called, and the export says so."""

    @property
    def exact(self) -> bool:
        """Whether the numbers are kept; if they are rounded, ``read`` holds each of them against its original."""
        return True

    def check(self, out: str) -> None:
        """Refuse a place before any work is done.

        Raises:
            ConfigError: something else is there than an earlier export of this form.
        """
        check_place(Path(out), marks=self.marks, others=self.others)

    def take(self, job: Job) -> Job:
        """The checkpoint as this form can have it: updates beside its layers are merged, and all layers are plain.

        Raises:
            ConfigError: a layer is not plain, or the form has nothing for such a model.
        """
        model = merge_adapters(job.loaded.model)
        require_plain(model, what=f"exporting {job.source}")
        return job._replace(loaded=job.loaded._replace(model=model))

    def outputs(self, job: Job) -> Outputs:
        """What the checkpoint gives; by default the logits on ``tokens_of(job)``."""
        return outputs_of(as_words(job.loaded.model, purpose="logits"), tokens_of(job))

    def place(self, out: str) -> AbstractContextManager[Path]:
        """A folder to write into, which is published where the block ends without an error, and else vanishes."""
        return whole_folder(Path(out))

    def write(self, job: Job, folder: Path) -> None:
        """Write into an empty folder.

        Raises:
            ConfigError: the form has nothing for such a model.
        """
        raise NotImplementedError

    def read(self, job: Job, folder: Path) -> Outputs:
        """What the written files give, computed from them alone, for what ``outputs`` was computed on.

        Raises:
            CheckpointError: they are damaged, or not what was meant.
        """
        raise NotImplementedError

    def finish(self, job: Job, folder: Path, found: Agreement | None) -> None:
        """Whatever is done behind the comparison, while the folder is not published yet."""

    def describe(self, job: Job) -> str:
        """What has been published, for people."""
        return f"written: {job.out}"


def tokens_of(job: Job) -> list[int]:
    """The token ids on which a job's model is compared."""
    return probe(as_words(job.loaded.model, purpose="logits"))


@torch.no_grad()
def outputs_of(model: WordNetwork, tokens: Sequence[int]) -> Outputs:
    """A model's logits (T, V) after each of the tokens."""
    return Outputs(model(torch.tensor([list(tokens)]))[0])


def write_export(
    export: Export,
    source: Path,
    out: Path | str,
    *,
    options: Mapping[str, str | None] | None = None,
    say: Callable[[str], object] | None = None,
) -> Exported:
    """Write a checkpoint, read it back, compare, and publish.

    Args:
        export: the form.
        source: the checkpoint.
        out: the folder to write; what else it may be says ``Export.out``.
        options: settings by name.
        say: called with what is being done where it takes long.

    Raises:
        ConfigError: the form has nothing for such a model, a setting is wrong, or ``out`` is taken.
        CheckpointError: the checkpoint is missing or damaged.
        ExportMismatch: what was read back is not the model; nothing is published.
    """
    exporter, place = export.open(options), str(out)
    if not exporter.unread and type(exporter).read is Exporter.read:
        raise ConfigError(
            f"the export {export.name!r} has no way to be read back, and does not say why; expected {export.exporter} "
            "to have `read`, or a sentence in `unread`"
        )
    exporter.check(place)
    loaded = checkpoint.load(source)
    _check_taken(export, loaded, source)
    job = exporter.take(Job(source, place, loaded, say or (lambda _: None)))
    expected = None if exporter.unread else exporter.outputs(job)  # before anything is written: a form may change it
    with exporter.place(place) as folder:
        exporter.write(job, folder)
        found = None if expected is None else compare_written(exporter, job, folder, expected)
        exporter.finish(job, folder, found)
    return Exported(exporter.describe(job), found, exporter.unread)


def compare_written(exporter: Exporter, job: Job, folder: Path, expected: Outputs) -> Agreement | None:
    """Read a written folder back and hold it against the model.

    Args:
        exporter: that wrote it.
        job: what was written.
        folder: as ``Exporter.write`` left it.
        expected: the checkpoint's outputs.

    Returns:
        How close the numbers are; None where the form gives texts alone.

    Raises:
        ExportMismatch: they are others than may be, or the folder cannot be read.
    """
    try:
        found = exporter.read(job, folder)
    except (CheckpointError, ConfigError, DataError) as error:
        raise ExportMismatch(
            f"what was written was read back and is not what was meant: {error}; nothing was published"
        ) from error
    if found.texts != expected.texts or (found.numbers is None) != (expected.numbers is None):
        raise ExportMismatch(
            f"what was written was read back and answers {list(found.texts)}; expected {list(expected.texts)}. "
            "Nothing was published; this is a fault of the export, please report it"
        )
    if found.numbers is None or expected.numbers is None:
        return None
    close = agreement(expected.numbers, found.numbers)
    if exporter.exact:
        close.require(what="what was written, read back,")
    return close


def _check_taken(export: Export, loaded: Loaded, source: Path) -> None:
    """Refuse a model that the form has nothing for.

    Raises:
        ConfigError: its head gives something else, or it lacks an ability.
    """
    head = loaded.spec.head
    if head is None or head not in export.takes:
        others = " or ".join(each.name for each in REGISTERED.values() if head in each.takes)
        cure = f"; export it with --to {others}" if others else ""
        raise ConfigError(
            f"{source} gives {head or 'only features'}; this form is for models that give {' or '.join(export.takes)} "
            f"alone{cure}"
        )
    for ability in export.takes[head]:
        loaded.model.require(ability, purpose=f"an export --to {export.name}")
