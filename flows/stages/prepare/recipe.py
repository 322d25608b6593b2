"""Settings of data preparation."""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.sources.base import SourceConfig
from flows.sources.every import SOURCES
from gptcore.config import Config, later, require_at_least
from gptcore.errors import ConfigError

_OWN_SPLITS = {"classify": "classify_split", "instruct": "instruct_split"}
"""Parts of the data whose shares have settings of their own."""


@dataclass(frozen=True)
class PrepareStage(Config):
    """From sources to token shards and row files."""

    source: SourceConfig = field(default_factory=SOURCES[0])
    """Where texts and rows come from."""
    tokenizer: str = "bpe"
    """``bpe`` (byte-level, trained on the training texts), ``gpt2``, or what ``pretrain.init`` takes: its tokenizer."""
    vocab_size: int = 4096
    """Tokens of a trained BPE."""
    tokenizer_bytes: int = 1 << 25
    """Of a larger corpus (32 MiB) a BPE is trained on about so much, a fixed choice of its documents."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens, as a prompt template may need them."""
    min_chars: int = 40
    """Shorter documents are dropped."""
    near_duplicates: float | None = 0.8
    """Jaccard similarity from which two texts or rows count as one; none: only equal ones do, for the split as well."""
    balance: bool = False
    """Drop rows of larger classes until all are as large as the smallest (the book's way)."""
    corpus_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the documents for training, the held-out loss, and neither (kept unseen for the tests of the rows)."""
    classify_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test rows for classification."""
    instruct_split: tuple[float, float, float] = (0.85, 0.05, 0.1)
    """The same for instructions."""
    rows_split: tuple[float, float, float] = later((0.8, 0.1, 0.1))
    """The same for the rows of every further part of the data."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only while the data is prepared, or after."""
        require_at_least(self, vocab_size=257, min_chars=0)
        if self.near_duplicates is not None and not 0.0 < self.near_duplicates < 1.0:
            raise ConfigError(
                f"prepare.near_duplicates: expected a number between 0 and 1, or none, got {self.near_duplicates}"
            )
        for name in ("corpus_split", *_OWN_SPLITS.values(), "rows_split"):
            shares = getattr(self, name)
            # a corpus need not leave anything to the tests of the rows
            needed = shares if name != "corpus_split" else shares[:2]
            if min(shares) < 0 or min(needed) == 0 or abs(sum(shares) - 1) > 1e-9:
                raise ConfigError(
                    f"prepare.{name}: expected shares of train, val and test that add up to 1, none of them 0"
                    f"{' but the last' if needed != shares else ''}, got {shares}"
                )

    def split_setting(self, part: str) -> str:
        """The name of the setting with the shares of a part's rows."""
        return _OWN_SPLITS.get(part, "rows_split")

    def split(self, part: str) -> tuple[float, float, float]:
        """Shares of a part's rows for training, validation and test."""
        shares: tuple[float, float, float] = getattr(self, self.split_setting(part))
        return shares
