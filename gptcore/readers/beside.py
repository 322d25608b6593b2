"""Readers: what lies beside the weights of a checkpoint, each reader in the folder of its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from gptcore.errors import CheckpointError, ConfigError
from gptcore.readers.base import Reader
from gptcore.readers.images import ImageReader
from gptcore.tokenizer import Tokenizer


class Readers(NamedTuple):
    """The readers of one network: a tokenizer, an image reader, or both."""

    tokenizer: Tokenizer | None = None
    images: ImageReader | None = None

    def words(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ConfigError: there is none.
        """
        if self.tokenizer is None:
            found = ", ".join(reader.name for _, reader in self.present()) or "nothing"
            raise ConfigError(f"expected a network that reads text, got one that reads {found}; it has no tokenizer")
        return self.tokenizer

    def present(self) -> Iterator[tuple[str, Reader]]:
        """The folder's name and the reader, for each that there is."""
        for name, reader in (("tokenizer", self.tokenizer), ("images", self.images)):
            if reader is not None:
                yield name, reader

    def digests(self) -> dict[str, str]:
        """Digest of each reader that there is, by its folder's name."""
        return {name: reader.digest for name, reader in self.present()}

    def save(self, folder: Path) -> None:
        """Write each into its folder below ``folder``."""
        for name, reader in self.present():
            reader.save(folder / name)

    @staticmethod
    def load(folder: Path) -> Readers:
        """Read those that are there.

        Raises:
            DataError: a folder is damaged.
        """
        words, pixels = folder / "tokenizer", folder / "images"
        return Readers(
            Tokenizer.load(words) if words.is_dir() else None,
            ImageReader.load(pixels) if pixels.is_dir() else None,
        )

    def check(self, wanted: Mapping[str, str], *, needs: str, holds: str) -> None:
        """Refuse readers that are not those that a spec names.

        Args:
            wanted: digest by name, as in ``digests``.
            needs: begins the message: what was written with the readers wanted.
            holds: goes on with it: where these were found, and what to do, ``{}`` standing for what was found.

        Raises:
            CheckpointError: one is another, missing or left over, or there is none at all.
        """
        found = dict(self.present())
        for name in sorted(wanted.keys() | found.keys()) or ["tokenizer"]:
            reader, digest = found.get(name), wanted.get(name, "none")
            if reader is None or reader.digest != digest:
                there = f"{reader.name} {reader.digest[:12]}" if reader else "none"
                raise CheckpointError(f"{needs} {name} {digest[:12]}, but {holds.format(there)}")
