"""What may be exported, and where to."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.errors import ConfigError
from gptcore.files import MANIFEST
from gptcore.transforms import Classifier, QuantizedEmbedding, QuantizedLinear, merge_lora


def exportable(source: Path, *, classifiers: bool = False) -> Loaded:
    """A checkpoint whose weights another program can take over; LoRA updates are merged.

    Raises:
        ConfigError: it is quantized, or a classifier where those are not wanted.
        CheckpointError: it is missing or damaged.
    """
    loaded = checkpoint.load(source)
    if not classifiers and labels_of(loaded):
        raise ConfigError(f"{source} is a classifier; this form is for language models alone. Export it with --to hf")
    model = merge_lora(loaded.model)
    if any(isinstance(part, QuantizedLinear | QuantizedEmbedding) for part in model.modules()):
        raise ConfigError(f"{source} is quantized; export the fp32 checkpoint it was made from")
    return loaded._replace(model=model)


def labels_of(loaded: Loaded) -> tuple[str, ...]:
    """The classes of a classifier; empty for a language model."""
    heads = [transform.labels for transform in loaded.spec.transforms if isinstance(transform, Classifier)]
    return heads[-1] if heads else ()


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
        raise ConfigError(f"{folder} exists and is no earlier export, so it is not replaced; give a folder that is new")
