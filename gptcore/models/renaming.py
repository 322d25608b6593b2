"""Names of tensors in another program: a table, and a number in the names of blocks."""

from __future__ import annotations

from collections.abc import Mapping


def rename_tensor(name: str, names: Mapping[str, str], *, blocks: str, new_blocks: str) -> str:
    """The other program's name of a tensor; an unknown one stays as it is.

    Args:
        name: as in ``blk.3.attn_norm.weight``.
        names: without ``.weight`` or ``.bias``, and inside a block without the block.
        blocks: what stands before a block's number, as in ``blk.``.
        new_blocks: what stands there in the new name.
    """
    base, _, kind = name.rpartition(".")
    if base in names:
        return f"{names[base]}.{kind}"
    number, _, part = base.removeprefix(blocks).partition(".")
    return f"{new_blocks}{number}.{names[part]}.{kind}" if base.startswith(blocks) and part in names else name
