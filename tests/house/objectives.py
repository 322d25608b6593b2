"""Objectives that live in the tests alone, with the heads they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.batch import IGNORED, Batch, Loss
from gptcore.data import Source
from gptcore.errors import ConfigError
from gptcore.models.network import Network, as_words
from gptcore.objectives import Objective
from gptcore.objectives.next_token import target_rows
from gptcore.transforms import Transform


@dataclass(frozen=True)
class TurnedHead(Transform):
    """A second head, which says whether the halves of a text were turned round."""

    def apply(self, model: Network) -> Network:
        """Add it."""
        model.turned_head = nn.Linear(model.config.width, 2)
        return model


@dataclass(frozen=True)
class MaskedAndTurned(Objective):
    """Two parts: the hidden words of each row, and whether its halves were turned, where that is asked."""

    turned_weight: float = 0.5
    """Weight of the second part; the first has 1."""
    forgets: bool = False
    """Whether the second part is left out where nothing is asked, as an objective must not."""

    def weights(self) -> dict[str, float]:
        """Two parts."""
        return {"masked": 1.0, "turned": self.turned_weight}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Hidden words, and rows that are asked."""
        labels, turned = batch.targets["labels"], batch.targets["turned"]
        return {"masked": int((labels != IGNORED).sum()), "turned": int((turned != IGNORED).sum())}

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """Both sums; the second one is over nothing where no row is asked."""
        words = as_words(model, purpose="hidden words")
        features = words.features(batch.inputs["tokens"], lengths=batch.lengths, packed=batch.packed)
        hidden, labels = target_rows(features, batch.targets["labels"])
        logits: Tensor = model.head(hidden)
        rows = (batch.targets["turned"] != IGNORED).nonzero().squeeze(1)
        masked = F.cross_entropy(logits, labels, reduction="sum")
        sums = {"right": float((logits.argmax(dim=1) == labels).sum())}
        if self.forgets and not len(rows):
            return Loss({"masked": masked}, sums)
        turned = model.get_submodule("turned_head")(features[rows, -1])
        return Loss(
            {"masked": masked, "turned": F.cross_entropy(turned, batch.targets["turned"][rows], reduction="sum")}, sums
        )

    def figures(
        self, means: Mapping[str, float], sums: Mapping[str, float], counts: Mapping[str, int], source: Source
    ) -> dict[str, float]:
        """The share of hidden words that are found; no perplexity, which hidden words do not have."""
        del means, source
        return {"masked_accuracy": sums["right"] / counts["masked"]}

    def fits(self, network: Network) -> None:
        """A network with both heads."""
        if not hasattr(network, "turned_head"):
            raise ConfigError(f"MaskedAndTurned expects a turned_head, {type(network).__name__} has none")


@dataclass(frozen=True)
class OneNumberHead(Transform):
    """A head of one number in the place of the one over the words."""

    def apply(self, model: Network) -> Network:
        """Swap it."""
        model.head = nn.Linear(model.config.width, 1)
        return model


@dataclass(frozen=True)
class MeasuredNumber(Objective):
    """Squared error of a number for each row, read from its summary."""

    def weights(self) -> dict[str, float]:
        """One part."""
        return {"square": 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Rows."""
        return {"square": len(batch.targets["values"])}

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The summed squares, and the summed distances."""
        summary = model.summary(batch.inputs, lengths=batch.lengths, packed=batch.packed)
        found: Tensor = model.head(summary)[:, 0]
        distance = found - batch.targets["values"]
        return Loss({"square": distance.square().sum()}, {"distance": float(distance.detach().abs().sum())})

    def figures(
        self, means: Mapping[str, float], sums: Mapping[str, float], counts: Mapping[str, int], source: Source
    ) -> dict[str, float]:
        """Mean absolute error."""
        del means, source
        return {"mae": sums["distance"] / counts["square"]}
