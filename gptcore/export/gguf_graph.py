"""Logits of a GGUF file, computed as llama.cpp computes them, from the file alone.

The graph of each architecture is in its family's ``GGUFForm``: written after llama.cpp's, and not after our models.

Shapes: T positions, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptcore.export.families import find_gguf_forms
from gptcore.export.gguf_file import GGUFFile
from gptcore.models.gguf_graph import file_tensor


def gguf_logits(file: GGUFFile, tokens: Sequence[int]) -> Tensor:
    """Logits (T, V) fp32 after each of the tokens, which are at least one and fit the context.

    Raises:
        CheckpointError: a tensor or field is missing, or the file describes an architecture of no family.
    """
    _, form = find_gguf_forms(file.fields.get("general.architecture"), place="the file")
    with torch.no_grad():
        x = form.graph(file, torch.tensor(list(tokens)))  # (T, C)
        head = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
        return x @ file_tensor(file, head).T
