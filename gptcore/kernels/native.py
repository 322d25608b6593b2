"""The built kernels as Python functions on tensors.

The structures repeat those of ``matrix.h`` and ``inference.cpp``. Calls release the interpreter's lock, and use the
threads that torch is set to use.

Shapes: O outputs, I inputs, N rows, B sequences, T new positions of each, C width.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.kernels.build import build_library
from gptcore.nn.kv_cache import LayerCache
from gptcore.transforms.quantize import QuantizedMatrix

logger = logging.getLogger(__name__)

_KINDS = {32: 0, 8: 1, 4: 2}


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("n_outputs", ctypes.c_int64),
        ("n_inputs", ctypes.c_int64),
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minimums", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class _Norm(ctypes.Structure):
    _fields_ = (("gain", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("epsilon", ctypes.c_float))


class _Block(ctypes.Structure):
    _fields_ = (
        ("norm_1", _Norm),
        ("norm_2", _Norm),
        ("qkv", _Matrix),
        ("out", _Matrix),
        ("up", _Matrix),
        ("down", _Matrix),
        ("n_heads", ctypes.c_int64),
    )


class _Cache(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("row_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class Weights:
    """A matrix with its bias where the kernels find it; the tensors are kept, and not copied."""

    def __init__(self, matrix: Tensor | QuantizedMatrix, bias: Tensor | None) -> None:
        """Take an (O, I) fp32 matrix, or a quantized one, and a bias (O).

        Raises:
            ConfigError: a tensor is not fp32 (or codes), not contiguous, or not on the CPU.
        """
        if isinstance(matrix, QuantizedMatrix):
            self.bits, group = matrix.bits, matrix.group_size
            self.n_outputs, n_bytes = matrix.codes.shape
            self.n_inputs = n_bytes * 8 // matrix.bits
            self.tensors = [matrix.codes, matrix.scales, matrix.minimums]
        else:
            self.bits, group = 32, 0
            self.n_outputs, self.n_inputs = matrix.shape
            self.tensors = [matrix.detach()]
        floats = [*self.tensors[self.bits != 32 :], *([] if bias is None else [bias])]
        if any(each.dtype != torch.float32 for each in floats):
            raise ConfigError("the kernels know fp32 and codes with fp32 scales only")
        self.tensors += [] if bias is None else [bias.detach()]
        if not all(each.is_contiguous() and each.device.type == "cpu" for each in self.tensors):
            raise ConfigError("the kernels need contiguous tensors on the CPU")
        codes, scales, minimums = (*(_address(t) for t in self.tensors[: 1 if self.bits == 32 else 3]), None, None)[:3]
        self.struct = _Matrix(
            kind=_KINDS[self.bits],
            group=group,
            n_outputs=self.n_outputs,
            n_inputs=self.n_inputs,
            codes=codes,
            scales=scales,
            minimums=minimums,
            bias=None if bias is None else _address(bias),
        )


class BlockWeights(NamedTuple):
    """A pre-norm block of GPT-2."""

    norm_1: nn.LayerNorm
    norm_2: nn.LayerNorm
    qkv: Weights
    out: Weights
    up: Weights
    down: Weights
    n_heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What blocks that are computed in one call must have in common: heads and sizes."""
        matrices = (self.qkv, self.out, self.up, self.down)
        return (self.n_heads, *(n for each in matrices for n in (each.n_outputs, each.n_inputs)))


class Blocks:
    """Blocks of one shape, for ``Native.blocks``."""

    def __init__(self, blocks: Sequence[BlockWeights]) -> None:
        """Keep the blocks and lay them out."""
        self.kept = list(blocks)
        self.width = blocks[0].out.n_outputs
        self.head_width = blocks[0].out.n_inputs // blocks[0].n_heads
        self.struct = (_Block * len(blocks))(*(_block(each) for each in blocks))


class Native:
    """The kernels of one built library."""

    def __init__(self, library: Path) -> None:
        """Load it.

        Raises:
            ConfigError: it cannot be loaded.
        """
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise ConfigError(f"{library} cannot be loaded ({error}); delete it, and it is built again") from error
        self._library.gptworks_lanes.restype = ctypes.c_char_p
        self.lanes: str = self._library.gptworks_lanes().decode()
        """The vectors that it uses: AVX-512, AVX2 or portable."""

    def linear(self, weights: Weights, x: Tensor, *, narrow: bool = False) -> Tensor:
        """(..., I) fp32 to (..., O): x W^T + b.

        Args:
            weights: the matrix.
            x: on the CPU.
            narrow: round each row of x to int16, for int8 weights; the products are then exact in integers.
        """
        rows = x.contiguous()
        y = x.new_empty(*x.shape[:-1], weights.n_outputs)
        n_rows = rows.numel() // weights.n_inputs
        if n_rows:
            self._library.gptworks_linear(
                ctypes.byref(weights.struct),
                _pointer(rows),
                ctypes.c_int64(n_rows),
                _pointer(y),
                ctypes.c_int64(narrow),
                ctypes.c_int64(torch.get_num_threads()),
            )
        return y

    def blocks(
        self, blocks: Blocks, x: Tensor, *, caches: Sequence[LayerCache], positions: Tensor, narrow: bool = False
    ) -> None:
        """Put x (B, T, C) fp32, contiguous, through the blocks, in place.

        Args:
            blocks: as many as there are caches.
            x: the new positions' embeddings, contiguous.
            caches: take up the new keys and values.
            positions: (B, T) int64, where the new positions stand; within the caches' capacity.
            narrow: as in ``linear``.
        """
        held = (_Cache * len(caches))(
            *(_Cache(_address(c.keys), _address(c.values), c.keys.stride(0), c.keys.stride(1)) for c in caches)
        )
        places = positions.contiguous()
        self._library.gptworks_blocks(
            blocks.struct,
            held,
            ctypes.c_int64(len(caches)),
            _pointer(x),
            ctypes.c_int64(positions.numel()),
            ctypes.c_int64(positions.shape[1]),
            _pointer(places),
            ctypes.c_int64(narrow),
            ctypes.c_int64(torch.get_num_threads()),
        )


@cache
def load_kernels() -> Native | None:
    """The kernels of this machine, built at the first call; None, said once in the log, where they cannot be built."""
    try:
        return Native(build_library())
    except ConfigError as error:
        logger.warning("inference runs without its kernels, and slower: %s", error)
        return None


def _block(block: BlockWeights) -> _Block:
    return _Block(
        norm_1=_norm(block.norm_1),
        norm_2=_norm(block.norm_2),
        qkv=block.qkv.struct,
        out=block.out.struct,
        up=block.up.struct,
        down=block.down.struct,
        n_heads=block.n_heads,
    )


def _norm(norm: nn.LayerNorm) -> _Norm:
    return _Norm(_address(norm.weight), _address(norm.bias), norm.eps)


def _address(tensor: Tensor) -> int | None:
    return tensor.data_ptr() if tensor.numel() else None


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
