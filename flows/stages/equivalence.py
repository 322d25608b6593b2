"""The same model in other forms: are its logits the same, and if not, by how much.

Cached, batched, merged, served and exported it must be the same but for the order of sums; rounded or quantized it
cannot be, and the table says how far it is.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from flows.stages.result import Equivalence
from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.data import Source
from gptcore.errors import ConfigError
from gptcore.export.equality import Agreement, agreement
from gptcore.export.gguf import export_gguf
from gptcore.export.gguf_file import read_gguf
from gptcore.export.gguf_graph import gguf_logits
from gptcore.export.hf import export_hf, import_hf
from gptcore.kernels import prepare_for_inference
from gptcore.models import Model
from gptcore.models.base import as_decoder
from gptcore.nn import merge_adapters

LONGEST: Final = 64
"""Tokens of held-out text on which forms are compared."""
N_ROWS: Final = 4
"""Rows of different lengths that are continued together."""

logger = logging.getLogger(__name__)


def compare_forms(
    original: Loaded, source: Path, tokens: list[int], *, variants: Mapping[str, Path]
) -> list[Equivalence]:
    """One row for each form of a language model.

    Args:
        original: the model.
        source: its checkpoint.
        tokens: held-out text, two tokens or more that fit the context.
        variants: names and checkpoints of quantized forms.
    """
    wanted = _logits(original.decoder, tokens)

    def load_logits(path: Path) -> Callable[[], Tensor]:
        return lambda: _logits(checkpoint.load(path).decoder, tokens)

    with tempfile.TemporaryDirectory(prefix="gptworks-") as place:
        forms: list[tuple[str, bool, Callable[[], Tensor]]] = [
            ("cached, token by token", True, lambda: _cache_logits(original.decoder, tokens)),
            (f"{N_ROWS} rows of different lengths together", True, lambda: _batch_logits(original.decoder, tokens)),
            ("served: prepared for inference, token by token", True, lambda: _serving_logits(source, tokens)),
            ("exported for transformers, imported", True, lambda: _through_hf(source, Path(place), tokens)),
            ("exported as GGUF F32, llama.cpp's graph", True, lambda: _through_gguf(source, Path(place), tokens)),
            *((name, False, load_logits(path)) for name, path in variants.items()),
        ]
        return [_row(form, must_equal, wanted, find) for form, must_equal, find in forms]


def compare_merged(loaded: Loaded, tokens: list[int]) -> Equivalence:
    """An adapted model whose updates are folded into its weights; they are folded in place."""
    wanted = _logits(loaded.decoder, tokens)

    def merge() -> Model:
        return as_decoder(merge_adapters(loaded.model), purpose="a comparison of logits")

    return _row("LoRA merged", True, wanted, lambda: _logits(merge().eval(), tokens))


def first_tokens(source: Source, model: Model) -> list[int]:
    """The beginning of a source's first sample."""
    tokens = source.batch(np.zeros(1, dtype=np.int64)).inputs["tokens"][0]
    ids: list[int] = tokens[: min(LONGEST, model.config.context_length)].tolist()
    return ids


def _row(form: str, must_equal: bool, wanted: Tensor, find: Callable[[], Tensor]) -> Equivalence:
    row = Equivalence(form=form, must_equal=must_equal, n=len(wanted))
    try:
        found: Agreement = agreement(wanted, find())
    except ConfigError as error:  # a model that has no such form, for example one whose heads were pruned
        return replace(row, reason=str(error))
    if must_equal and not found.is_equal:
        logger.warning("%s: expected the model's logits, got others by up to %.3g", form, found.largest_difference)
    return replace(row, **found._asdict(), equal=found.is_equal)


@torch.no_grad()
def _logits(model: Model, tokens: list[int]) -> Tensor:
    """(T, V), in one pass."""
    logits: Tensor = model(torch.tensor([tokens]))[0]
    return logits


@torch.no_grad()
def _cache_logits(model: Model, tokens: list[int]) -> Tensor:
    cache, rows = model.new_cache(1, capacity=len(tokens)), []
    for token in tokens:
        rows.append(model(torch.tensor([[token]]), cache=cache)[0])
        cache.advance(1)
    return torch.cat(rows)


def _serving_logits(source: Path, tokens: list[int]) -> Tensor:
    return _cache_logits(prepare_for_inference(checkpoint.load(source).decoder), tokens)


@torch.no_grad()
def _batch_logits(model: Model, tokens: list[int]) -> Tensor:
    """Row i reads a part of the text padded on the right, and all continue together; each gives its positions."""
    n = len(tokens)
    ends = [max(1, n * (i + 1) // N_ROWS) for i in range(N_ROWS)]
    starts = [0, *ends[:-1]]
    n_read = [max(1, start) for start in starts]
    cache = model.new_cache(N_ROWS, capacity=n + max(n_read))
    padded = torch.zeros(N_ROWS, max(n_read), dtype=torch.int64)
    for i, length in enumerate(n_read):
        padded[i, :length] = torch.tensor(tokens[:length])
    read = model(padded, cache=cache)
    cache.advance(torch.tensor(n_read))
    places: dict[int, Tensor] = {length - 1: read[i, length - 1] for i, length in enumerate(n_read)}
    for step in range(max(end - length for end, length in zip(ends, n_read, strict=True))):
        at = [min(length + step, n - 1) for length in n_read]
        logits = model(torch.tensor([[tokens[place]] for place in at]), cache=cache)
        cache.advance(1)
        for i, (place, length) in enumerate(zip(at, n_read, strict=True)):
            if place == length + step:  # beyond the text a row repeats its last token, which is not looked at
                places.setdefault(place, logits[i, 0])
    return torch.stack([places[place] for place in range(n)])


def _through_hf(source: Path, place: Path, tokens: list[int]) -> Tensor:
    folder = export_hf(source, place / "hf")
    return _logits(checkpoint.load(import_hf(folder, place / "back")).decoder, tokens)


def _through_gguf(source: Path, place: Path, tokens: list[int]) -> Tensor:
    return gguf_logits(read_gguf(export_gguf(source, place / "gguf", packing="f32").file), tokens)
