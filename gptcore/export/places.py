"""What may be exported, and where to."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from gptcore import checkpoint
from gptcore.checkpoint import Loaded, ModelSpec
from gptcore.errors import ConfigError
from gptcore.files import MANIFEST
from gptcore.models.blueprint import require_plain
from gptcore.nn import merge_adapters
from gptcore.transforms import Head


def exportable(source: Path, *, classifiers: bool = False) -> Loaded:
    """A checkpoint whose weights another program can take over; updates beside its layers are merged.

    Raises:
        ConfigError: a layer is not plain, or its head is of another kind than what is wanted.
        CheckpointError: it is missing or damaged.
    """
    loaded = checkpoint.load(source)
    check_head(loaded.spec, source, allowed=("words", "classes") if classifiers else ("words",))
    model = merge_adapters(loaded.model)
    require_plain(model, what=f"exporting {source}")
    return loaded._replace(model=model)


def check_head(spec: ModelSpec, source: Path, *, allowed: tuple[Head, ...]) -> None:
    """Refuse a model whose head gives something else than a form is for.

    Raises:
        ConfigError: it does.
    """
    if spec.head in allowed:
        return
    if spec.head == "classes":
        raise ConfigError(f"{source} is a classifier; this form is for language models alone. Export it with --to hf")
    raise ConfigError(
        f"{source} gives {spec.head or 'only features'}; this form is for models that give {' or '.join(allowed)} alone"
    )


def check_place(folder: Path, *, marks: tuple[str, ...], others: tuple[str, ...]) -> None:
    """Refuse a place that holds anything but an earlier export of the same form.

    Args:
        folder: where to write.
        marks: files that every export of the form has.
        others: names, or patterns of names, that it may have besides.

    Raises:
        ConfigError: something else is there.
    """
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    known = all(any(fnmatch(name, allowed) for allowed in (MANIFEST, *marks, *others)) for name in found)
    if found and not (known and {MANIFEST, *marks} <= found):
        raise ConfigError(
            f"{folder} exists and is not an earlier export, so it is not replaced; choose an empty folder"
        )
