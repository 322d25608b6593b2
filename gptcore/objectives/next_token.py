"""Next-token prediction: cross-entropy where there is a label, and nowhere else.

Shapes: B rows, T positions, C width, N target positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gptcore.batch import IGNORED, Batch, Loss
from gptcore.data.base import Source
from gptcore.errors import ConfigError
from gptcore.models.network import Network, as_words
from gptcore.nn.distill_loss import Mixture, linear_distillation
from gptcore.nn.linear_loss import linear_cross_entropy
from gptcore.objectives.base import Objective
from gptcore.objectives.fitting import check_causal, check_same_outputs, check_word_head

_PART = "next_token"


@dataclass(frozen=True)
class NextToken(Objective):
    """Cross-entropy of the next token, in nats, summed over the target positions."""

    distillable: ClassVar[bool] = True

    def weights(self) -> dict[str, float]:
        """One part."""
        return {_PART: 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Target positions in the batch."""
        return {_PART: int((batch.targets["labels"] != IGNORED).sum())}

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """Head and cross-entropy are computed at target positions only."""
        words = as_words(model, purpose="a loss of tokens")
        features, head = words.features_and_head(batch.inputs["tokens"], lengths=batch.lengths, packed=batch.packed)
        hidden, labels = target_rows(features, batch.targets["labels"])
        if head is not None:
            total = linear_cross_entropy(hidden, head, labels)
        else:
            total = torch.nn.functional.cross_entropy(model.head(hidden).float(), labels, reduction="sum")
        return Loss({_PART: total}, sums={})

    def figures(
        self, means: Mapping[str, float], sums: Mapping[str, float], counts: Mapping[str, int], source: Source
    ) -> dict[str, float]:
        """``perplexity``, and ``bits_per_byte`` where the source knows the text behind its tokens."""
        del sums, counts
        mean, size = means[_PART], source.text_size
        found = {"perplexity": math.exp(min(mean, 700.0))}
        if size is not None:
            found["bits_per_byte"] = mean / math.log(2) * size.n_tokens / size.n_bytes
        return found

    def fits(self, network: Network) -> None:
        """A causal network with a head over the words.

        Raises:
            ConfigError: another one.
        """
        check_causal(type(self).__name__, network)
        check_word_head(type(self).__name__, network)

    def distill(self, student: Network, teacher: Network, batch: Batch, mixture: Mixture) -> Loss:
        """The teacher's probabilities at the same target positions.

        Raises:
            ConfigError: teacher and student differ in their words, or the student's head is not plain.
        """
        ours, known = (as_words(each, purpose="distillation of words") for each in (student, teacher))
        check_same_outputs(known.config.vocab_size, ours.config.vocab_size, what="words")
        tokens, targets = batch.inputs["tokens"], batch.targets["labels"]
        features, head = ours.features_and_head(tokens, lengths=batch.lengths, packed=batch.packed)
        if head is None:
            raise ConfigError("the student's head is quantized or adapted; only a plain head can be distilled into")
        hidden, labels = target_rows(features, targets)
        with torch.no_grad():
            theirs, _ = target_rows(known.features(tokens, lengths=batch.lengths, packed=batch.packed), targets)

        def teach(rows: slice) -> Tensor:
            with torch.no_grad():
                logits: Tensor = teacher.head(theirs[rows])
            return logits

        return Loss({_PART: linear_distillation(hidden, head, labels, teacher=teach, mixture=mixture)}, sums={})


def target_rows(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, T, C) and labels (B, T) at the positions that have a label: (N, C) and (N,)."""
    hidden, wanted = features.flatten(0, 1), labels.flatten()
    there = wanted != IGNORED
    if bool(there.all()):
        return hidden, wanted
    chosen = there.nonzero().squeeze(1)  # (N,)
    return hidden.index_select(0, chosen), wanted.index_select(0, chosen)
