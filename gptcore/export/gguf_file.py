"""A GGUF file as it lies on the disk, read with bounds: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

The library ``gguf`` writes our files; this reader shares nothing with it but the unpacking of quantized blocks, so that
what was written is judged by somebody else. Every count, length and offset is held against the bytes that are there
before anything of that size is made: a file of ten bytes that promises 10⁹ tensors costs ten bytes.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from gptcore.errors import CheckpointError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_DIMENSIONS: Final = 4
_MAX_NAME: Final = 1024
_STRING, _ARRAY = 8, 9
_SCALARS: Final[dict[int, str]] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""struct's letters of the numbers of the format."""


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor, still packed."""

    shape: tuple[int, ...]
    """Outermost dimension first, as numpy counts; the file counts the other way round."""
    kind: GGMLQuantizationType
    """How its numbers are packed."""
    packed: NDArray[np.uint8]
    """The bytes (n,)."""

    def dense(self) -> NDArray[np.float32]:
        """A copy of the numbers in fp32.

        Raises:
            CheckpointError: the library cannot unpack this kind.
        """
        rows = self.packed.reshape(*self.shape[:-1], -1)
        try:
            return np.array(dequantize(rows, self.kind), dtype=np.float32).reshape(self.shape)
        except NotImplementedError as error:
            raise CheckpointError(f"tensors of kind {self.kind.name} cannot be unpacked: {error}") from error


@dataclass(frozen=True)
class GGUFFile:
    """A whole file."""

    fields: dict[str, Any]
    """Metadata: numbers, texts, and lists of them."""
    tensors: dict[str, GGUFTensor]
    """By name."""

    def number(self, name: str) -> float:
        """A numeric field.

        Raises:
            CheckpointError: it is missing or no number.
        """
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"expected the field {name!r} to be a number, got {str(value)[:40]!r}")
        return value

    def dense(self, name: str) -> NDArray[np.float32]:
        """A tensor in fp32.

        Raises:
            CheckpointError: there is none of that name.
        """
        if name not in self.tensors:
            raise CheckpointError(f"the tensor {name!r} is missing; llama.cpp would refuse the file")
        return self.tensors[name].dense()


def read_gguf(path: Path) -> GGUFFile:
    """Read a file; its tensors stay on the disk until they are asked for.

    Raises:
        CheckpointError: it is missing, no GGUF of version 2 or 3, cut short, or promises more than it holds.
    """
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # mmap refuses an empty file with a ValueError
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return _Reader(path, view).whole()


class _Reader:
    """A place in the file, and what can be taken from there."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path, self.view, self.place = path, view, 0

    def whole(self) -> GGUFFile:
        if bytes(self._take(4, "its mark")) != _MAGIC:
            raise self._damage("it does not begin with GGUF; it is another kind of file")
        version = self._number("<I", "its version")
        if version not in _VERSIONS:
            raise self._damage(f"it is of version {version}; only {_VERSIONS[0]} and {_VERSIONS[1]} can be read")
        n_tensors = self._count("tensors", least_bytes=8 + 4 + 8 + 4 + 8)
        n_fields = self._count("fields", least_bytes=8 + 4 + 1)
        fields = self._unique("field", n_fields, lambda: self._value(self._number("<I", "a field's type")))
        described = self._unique("tensor", n_tensors, self._read_description)
        alignment = fields.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or isinstance(alignment, bool)
            or alignment < 1
            or alignment & (alignment - 1)
        ):
            raise self._damage(f"expected general.alignment to be a power of two, got {alignment!r}")
        start = -(-self.place // alignment) * alignment
        return GGUFFile(fields, {name: self._tensor(name, start, *entry) for name, entry in described.items()})

    def _damage(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged at byte {self.place:,}: {why}; make or copy it anew")

    def _take(self, n_bytes: int, what: str) -> memoryview:
        if n_bytes > len(self.view) - self.place:
            raise self._damage(f"{what} should take {n_bytes:,} bytes, {len(self.view) - self.place:,} are left")
        self.place += n_bytes
        return self.view[self.place - n_bytes : self.place]

    def _number(self, letters: str, what: str) -> Any:
        return struct.unpack(letters, self._take(struct.calcsize(letters), what))[0]

    def _count(self, what: str, *, least_bytes: int) -> int:
        n = int(self._number("<Q", f"the number of {what}"))
        if n * least_bytes > len(self.view) - self.place:
            raise self._damage(f"it promises {n:,} {what}, for which the file is too short")
        return n

    def _text(self, what: str, *, longest: int | None = None) -> str:
        n = int(self._number("<Q", f"the length of {what}"))
        if longest is not None and n > longest:
            raise self._damage(f"{what} has {n:,} bytes, the most is {longest:,}")
        try:
            return bytes(self._take(n, what)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damage(f"{what} is not UTF-8 ({error})") from error

    def _unique(self, what: str, n: int, read: Callable[[], Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(n):
            name = self._text(f"the name of a {what}", longest=_MAX_NAME)
            if name in found:
                raise self._damage(f"the {what} {name!r} is there twice")
            found[name] = read()
        return found

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text("a text")
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], "a number")
        if kind != _ARRAY:
            raise self._damage(f"a field is of the unknown type {kind}")
        inner = self._number("<I", "a list's type")
        if inner == _STRING:
            return [self._text("a text") for _ in range(self._count("texts", least_bytes=8))]
        if inner not in _SCALARS:
            raise self._damage(f"a list is of type {inner}, which cannot be read")
        size = struct.calcsize(_SCALARS[inner])
        n = self._count("numbers", least_bytes=size)
        return np.frombuffer(self._take(n * size, "a list"), dtype=np.dtype(_SCALARS[inner])).tolist()

    def _read_description(self) -> tuple[tuple[int, ...], GGMLQuantizationType, int]:
        n_dimensions = self._number("<I", "a tensor's number of dimensions")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            raise self._damage(f"a tensor has {n_dimensions:,} dimensions; the most is {_MAX_DIMENSIONS}")
        shape = tuple(int(self._number("<Q", "a tensor's size")) for _ in range(n_dimensions))[::-1]
        kind = self._number("<I", "a tensor's kind")
        try:
            return shape, GGMLQuantizationType(kind), int(self._number("<Q", "a tensor's place"))
        except ValueError as error:
            raise self._damage(f"a tensor is of kind {kind}, which is not known here") from error

    def _tensor(
        self, name: str, start: int, shape: tuple[int, ...], kind: GGMLQuantizationType, offset: int
    ) -> GGUFTensor:
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block or 0 in shape:
            raise self._damage(f"{name} of shape {shape} cannot be cut into blocks of {block}, as {kind.name} is")
        n_bytes = math.prod(shape) // block * block_bytes  # python's integers: a product cannot wrap around
        first = start + offset
        if first + n_bytes > len(self.view):
            raise self._damage(f"{name} of shape {shape} ends at byte {first + n_bytes:,} of {len(self.view):,}")
        return GGUFTensor(shape, kind, np.frombuffer(self.view[first : first + n_bytes], dtype=np.uint8))
