"""Figures computed from logits: classification quality, and how well texts are foreseen, text by text.

Shapes: B rows, T positions, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptcore.batch import IGNORED
from gptcore.data.base import Source
from gptcore.models.base import Model, as_decoder
from gptcore.models.network import Network
from gptcore.objectives.classify import class_logits


class ClassMetrics(NamedTuple):
    """How a classifier did."""

    accuracy: float
    """Share of right answers."""
    macro_f1: float
    """Mean over the classes of the harmonic mean of precision and recall; a class never seen nor told counts 0."""
    confusion: list[list[int]]
    """Rows: the true class; columns: the class that was told."""


class Continuation(NamedTuple):
    """Tokens whose probability is asked for, after others that are given."""

    given: Sequence[int]
    """What stands before; at least one token."""
    tokens: Sequence[int]
    """What is measured."""


_LOGITS_AT_ONCE = 1 << 26
"""256 MB of fp32."""


@torch.no_grad()
def continuation_nats(model: Network, items: Sequence[Continuation]) -> list[float]:
    """-log p of each continuation as a whole, in nats: the sum over its tokens.

    What is given is cut in front as far as the continuation needs the room; a continuation longer than the context is
    read in windows one after the other, each of which sees only itself and the token before it.

    Raises:
        ConfigError: the model is no decoder.
    """
    decoder = as_decoder(model.eval(), purpose="the probability of a text")
    context = decoder.config.context_length
    windows = [(i, *window) for i, item in enumerate(items) for window in _windows(item, context)]
    order = sorted(range(len(windows)), key=lambda n: len(windows[n][1]))
    found = [0.0] * len(items)
    start = 0
    while start < len(order):
        stop = start + 1
        room = _LOGITS_AT_ONCE // decoder.config.vocab_size
        while stop < len(order) and (stop + 1 - start) * len(windows[order[stop]][1]) <= room:
            stop += 1
        chosen = [windows[n] for n in order[start:stop]]
        for (i, _, _), nats in zip(chosen, _window_nats(decoder, chosen), strict=True):
            found[i] += nats
        start = stop
    return found


def _windows(item: Continuation, context: int) -> Iterator[tuple[list[int], int]]:
    """Windows of at most ``context`` + 1 tokens, and where in each its measured tokens begin."""
    room = max(1, context + 1 - len(item.tokens))
    given = list(item.given)[-room:]
    whole = [*given, *item.tokens]
    begin = len(given)
    for start in range(0, len(whole) - 1, context):
        window = whole[start : start + context + 1]
        yield window, max(1, begin - start)


def _window_nats(model: Model, windows: Sequence[tuple[int, list[int], int]]) -> list[float]:
    length = max(len(tokens) for _, tokens, _ in windows) - 1
    inputs = np.zeros((len(windows), length), dtype=np.int64)
    labels = np.full((len(windows), length), IGNORED, dtype=np.int64)
    for row, (_, tokens, begin) in enumerate(windows):
        inputs[row, : len(tokens) - 1] = tokens[:-1]  # what fills up stands behind, where nothing measured sees it
        labels[row, begin - 1 : len(tokens) - 1] = tokens[begin:]
    features, head = model.features_and_head(torch.from_numpy(inputs))
    logits = model.head(features) if head is None else features @ head.T  # (B, T, V)
    wanted = torch.from_numpy(labels)
    nats = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return [float(row) for row in nats.reshape(wanted.shape).double().sum(dim=1)]


def bits_per_byte(nats: float, text: str) -> float:
    """Nats of a text as bits per UTF-8 byte: the same scale whatever tokenizer a model has.

    Raises:
        ValueError: the text is empty.
    """
    n_bytes = len(text.encode())
    if not n_bytes:
        raise ValueError("an empty text has no bits per byte")
    return nats / math.log(2) / n_bytes


@torch.no_grad()
def class_probabilities(model: Network, source: Source, *, batch_size: int = 32) -> Tensor:
    """(n_samples, K) fp32: the probability of each class for each row, in the order of the rows."""
    model.eval()
    order = source.order(epoch=0, seed=0, batch_size=batch_size)  # similar lengths together: less padding
    parts = [order[start : start + batch_size] for start in range(0, source.n_samples, batch_size)]
    found = torch.cat([class_logits(model, source.batch(part)).softmax(dim=1) for part in parts])
    return found[torch.from_numpy(np.argsort(order))]


@torch.no_grad()
def classify_rows(model: Network, source: Source, *, n_classes: int, batch_size: int = 32) -> ClassMetrics:
    """Classify every row of the source."""
    model.eval()
    confusion = torch.zeros(n_classes, n_classes, dtype=torch.int64)
    order = source.order(epoch=0, seed=0, batch_size=batch_size)  # similar lengths together: less padding
    for start in range(0, source.n_samples, batch_size):
        batch = source.batch(order[start : start + batch_size])
        told = class_logits(model, batch).argmax(dim=1)
        for truth, answer in zip(batch.targets["classes"].tolist(), told.tolist(), strict=True):
            confusion[truth, answer] += 1
    right = confusion.diagonal().double()
    f1 = 2 * right / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
    accuracy = float(right.sum() / confusion.sum().clamp(min=1))
    return ClassMetrics(accuracy, float(f1.mean()), confusion.tolist())
