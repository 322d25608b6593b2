"""What an encoder-decoder of the tests is trained for: to say its source backwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gptcore.batch import IGNORED, Batch, Loss
from gptcore.data import PaddedRows, TokenLabels
from gptcore.data.base import STILL, Data, Draw
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError
from gptcore.models import Network, Seq2Seq
from gptcore.objectives import Objective
from gptcore.tokenizer import Tokenizer


@dataclass(frozen=True)
class BackwardsRows(Data):
    """Rows of one to nine tokens, and the same from the end."""

    tokenizer: Path
    n_rows: int = 24

    def open(self) -> BackwardsSource:
        """Drawn from a generator of their own."""
        draws = np.random.default_rng(5)
        rows = [draws.integers(1, 300, size=1 + i % 9) for i in range(self.n_rows)]
        labels = TokenLabels([row[::-1].copy() for row in rows])
        return BackwardsSource(rows, labels, tokenizer=Tokenizer.load(self.tokenizer), ledger=Ledger())


class BackwardsSource(PaddedRows):
    """``source``, and the answer behind its start token."""

    def batch(self, indices: Sequence[int] | NDArray[np.int64], *, packed: bool = False, draw: Draw = STILL) -> Batch:
        """Always padded."""
        del packed
        plain = super().batch(indices, draw=draw)
        begun = F.pad(plain.targets["labels"][:, :-1].clamp(min=0), (1, 0))
        return dataclasses.replace(plain, inputs={"source": plain.inputs["tokens"], "tokens": begun})


@dataclass(frozen=True)
class Answer(Objective):
    """Cross-entropy of the answer's tokens with the source in sight."""

    def weights(self) -> dict[str, float]:
        """One part."""
        return {"answer": 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Tokens of the answers."""
        return {"answer": int((batch.targets["labels"] != IGNORED).sum())}

    def __call__(self, model: Network, batch: Batch) -> Loss:
        """The sum over them."""
        assert isinstance(model, Seq2Seq)
        memory = model.encode(batch.inputs["source"], lengths=batch.lengths)
        logits: Tensor = model.head(model.decode(batch.inputs["tokens"], memory))
        labels = batch.targets["labels"].flatten()
        total = F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORED, reduction="sum")
        return Loss({"answer": total}, {})

    def fits(self, network: Network) -> None:
        """An encoder-decoder."""
        if not isinstance(network, Seq2Seq):
            raise ConfigError(f"Answer expects an encoder-decoder, got a {type(network).__name__}")
