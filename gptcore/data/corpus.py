"""Token shards: a corpus as memory-mapped token files.

A folder of ``shard-00000.bin``, ``shard-00001.bin`` ... holds one long row of token ids, every document followed by
the end-of-text token; a document may run on into the next shard. ``shards.json`` says how many tokens and bytes of
text there are and which tokenizer made them, ``manifest.json`` every file's size and sha256, so that a truncated or
altered shard is refused before it is mapped (reading past the end of a mapped file kills the process).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gptcore.config import Config
from gptcore.data.batches import Spread, in_batches, in_turn
from gptcore.errors import ConfigError, DataError
from gptcore.files import MANIFEST, file_sha256, verify_folder, whole_folder, write_json
from gptcore.tokenizer import Tokenizer

SHARDS = "shards.json"
_DTYPES: dict[str, np.dtype[np.unsignedinteger]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
_READ_TOKENS = 1 << 22


@dataclass(frozen=True)
class ShardFile(Config):
    """One token file."""

    name: str
    """File name inside the folder."""
    n_tokens: int
    """Token ids in it."""


@dataclass(frozen=True)
class ShardManifest(Config):
    """What a folder of token shards holds."""

    shards: tuple[ShardFile, ...]
    """The files, in reading order."""
    dtype: str
    """``uint16`` if every id fits, else ``uint32``; little-endian."""
    tokenizer_name: str
    """For messages."""
    tokenizer_digest: str
    """Identity of the tokenizer that made the ids."""
    vocab_size: int
    """Every id is below it."""
    max_id: int
    """The largest id found."""
    n_documents: int
    """Documents, each ended by one end-of-text token."""
    n_bytes: int
    """UTF-8 bytes of the documents' text: the denominator of bits per byte."""
    n_tokens: int
    """Token ids in all shards, the end-of-text tokens among them."""


@dataclass(frozen=True)
class Shards:
    """Opened token shards."""

    manifest: ShardManifest
    """What they hold."""
    arrays: tuple[NDArray[np.unsignedinteger], ...]
    """One read-only memory map (n_tokens,) per shard."""
    fingerprint: str
    """sha256 (hex) of ``manifest.json``, and through its hashes of every token."""


def write_shards(
    documents: Iterable[str],
    *,
    tokenizer: Tokenizer,
    folder: Path,
    shard_tokens: int = 1 << 24,
    spread: Spread = in_turn,
) -> ShardManifest:
    """Encode the documents into token shards under ``folder``; a few batches of documents are in memory at a time.

    Args:
        documents: texts, read once and lazily. An empty one is skipped.
        tokenizer: makes the ids and ends every document with its end-of-text token.
        folder: appears when all is written; an older folder of that name is replaced.
        shard_tokens: tokens per file.
        spread: encodes the batches.

    Raises:
        DataError: there is no text at all.
        OutOfDiskError: the disk is full; nothing is left behind.
    """
    if shard_tokens < 1:
        raise ConfigError(f"expected shard_tokens to be at least 1, got {shard_tokens}")
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    with whole_folder(folder) as beside:
        writer = _ShardWriter(beside, _DTYPES[dtype], shard_tokens)
        n_documents = n_bytes = 0
        try:
            for ids, n_texts, n_text_bytes in spread(
                partial(_encode, tokenizer=tokenizer), in_batches(filter(None, documents), size=len)
            ):
                writer.write(ids)
                n_documents += n_texts
                n_bytes += n_text_bytes
        finally:
            writer.close()
        if not n_documents:
            raise DataError(f"no text for {folder}: there is no document, or every document is empty")
        manifest = ShardManifest(
            shards=tuple(writer.files),
            dtype=dtype,
            tokenizer_name=tokenizer.name,
            tokenizer_digest=tokenizer.digest,
            vocab_size=tokenizer.vocab_size,
            max_id=writer.max_id,
            n_documents=n_documents,
            n_bytes=n_bytes,
            n_tokens=sum(file.n_tokens for file in writer.files),
        )
        write_json(beside / SHARDS, manifest.to_dict())
    return manifest


def read_manifest(folder: Path) -> ShardManifest:
    """The manifest of a folder written by ``write_shards``.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / SHARDS
    try:
        manifest = ShardManifest.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {folder} is not a folder of token shards; prepare the data") from error
    except (OSError, ValueError, ConfigError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete {folder} and prepare the data again") from error
    if manifest.dtype not in _DTYPES or sum(file.n_tokens for file in manifest.shards) != manifest.n_tokens:
        raise DataError(f"{path} contradicts itself; delete {folder} and prepare the data again")
    return manifest


def open_shards(folder: Path, *, verify: bool = True) -> Shards:
    """Memory-map the shards of a folder.

    Args:
        folder: written by ``write_shards``.
        verify: also read every byte: sha256, and no id outside the vocabulary. Sizes are always checked.

    Raises:
        DataError: a shard is missing, truncated, altered, or has an id outside the vocabulary.
    """
    manifest = read_manifest(folder)
    if verify:
        verify_folder(folder, DataError)
    dtype, arrays = _DTYPES[manifest.dtype], []
    mend = f"; delete {folder} and prepare the data again"
    for file in manifest.shards:
        path = folder / file.name
        size, right = path.stat().st_size if path.is_file() else 0, file.n_tokens * dtype.itemsize
        if size != right:
            raise DataError(f"token shard {path} has {size:,} bytes, {SHARDS} says {right:,}{mend}")
        array: NDArray[np.unsignedinteger] = np.memmap(path, dtype=dtype, mode="r")
        top = max(int(array[i : i + _READ_TOKENS].max()) for i in range(0, len(array), _READ_TOKENS)) if verify else 0
        if top >= manifest.vocab_size:
            raise DataError(
                f"token shard {path} holds the id {top}, outside the vocabulary of {manifest.vocab_size}{mend}"
            )
        arrays.append(array)
    return Shards(manifest, tuple(arrays), file_sha256(folder / MANIFEST))


def read_texts(folder: Path, *, tokenizer: Tokenizer) -> Iterator[str]:
    """The documents of a folder written by ``write_shards``, as text again.

    Raises:
        DataError: a shard is missing or truncated, or another tokenizer made it.
    """
    shards = open_shards(folder, verify=False)
    if shards.manifest.tokenizer_digest != tokenizer.digest:
        raise DataError(f"{folder} was made with the tokenizer {shards.manifest.tokenizer_name}, not {tokenizer.name}")
    rest = np.empty(0, dtype=np.int64)
    for array in shards.arrays:
        for start in range(0, len(array), _READ_TOKENS):
            ids = np.concatenate([rest, np.asarray(array[start : start + _READ_TOKENS], dtype=np.int64)])
            *whole, rest = np.split(ids, np.flatnonzero(ids == tokenizer.end_of_text) + 1)
            for document in whole:
                yield tokenizer.decode(document[:-1].tolist())


def _encode(texts: list[str], *, tokenizer: Tokenizer) -> tuple[NDArray[np.int64], int, int]:
    """Ids of the texts, each ended; how many texts, and how many bytes they have."""
    rows = tokenizer.encode_batch(texts)
    ids = np.array([i for row in rows for i in (*row, tokenizer.end_of_text)], dtype=np.int64)
    return ids, len(texts), sum(len(text.encode()) for text in texts)


class _ShardWriter:
    """Appends ids to the current shard file and starts the next one when it is full."""

    def __init__(self, folder: Path, dtype: np.dtype[np.unsignedinteger], shard_tokens: int) -> None:
        self.files: list[ShardFile] = []
        self.max_id = 0
        self._folder, self._dtype, self._shard_tokens = folder, dtype, shard_tokens
        self._file: BinaryIO | None = None
        self._n_tokens = 0

    def write(self, ids: NDArray[np.int64]) -> None:
        """Append ids (n,) to the shards."""
        self.max_id = max(self.max_id, int(ids.max(initial=0)))
        while len(ids):
            if self._file is None:
                self._file = (self._folder / f"shard-{len(self.files):05d}.bin").open("wb")
                self._n_tokens = 0
            part, ids = np.split(ids, [self._shard_tokens - self._n_tokens])
            self._file.write(part.astype(self._dtype).tobytes())
            self._n_tokens += len(part)
            if self._n_tokens == self._shard_tokens:
                self.close()

    def close(self) -> None:
        """Finish the current shard, if one is open."""
        file, self._file = self._file, None
        if file is None:
            return
        file.close()
        self.files.append(ShardFile(f"shard-{len(self.files):05d}.bin", self._n_tokens))
