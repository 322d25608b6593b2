"""GPT-2 in GGUF: llama.cpp's names and fields of the architecture ``gpt2`` (``src/models/gpt2.cpp``).

Reached by way of Hugging Face's form, in which every weight has its place already: GGUF keeps torch's layout of linear
layers, outputs first. A tied head is left out; llama.cpp takes the token embedding in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gptcore.models.family import GGUFForm
from gptcore.models.gpt.gguf_graph import gguf_features
from gptcore.models.gpt.hf import TRANSPOSED
from gptcore.models.renaming import rename_tensor

ARCHITECTURE = "gpt2"
_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_BACK = {theirs: hf for hf, theirs in _NAMES.items()}
_FIELDS = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}


def to_gguf_tensors(tensors: Mapping[str, Tensor], *, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Hugging Face's tensors under llama.cpp's names and in its layout."""
    del config
    return {
        rename_tensor(name, _NAMES, blocks="transformer.h.", new_blocks="blk."): tensor.T
        if name.endswith(TRANSPOSED)
        else tensor
        for name, tensor in tensors.items()
    }


def from_gguf_tensors(tensors: Mapping[str, Tensor], *, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """llama.cpp's tensors under Hugging Face's names and in its layout; unknown names stay as they are."""
    del config
    named = {
        rename_tensor(name, _BACK, blocks="blk.", new_blocks="transformer.h."): tensor
        for name, tensor in tensors.items()
    }
    return {name: t.T if name.endswith(TRANSPOSED) and t.dim() == 2 else t for name, t in named.items()}


def to_gguf_fields(config: Mapping[str, Any]) -> dict[str, int | float]:
    """The architecture's fields out of a ``config.json``, without the architecture's name in front."""
    return {ours: config[theirs] or 4 * config["n_embd"] for ours, theirs in _FIELDS.items()}


def from_gguf_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``config.json`` would say of the model; what is missing is None there."""
    config = {theirs: fields.get(f"{ARCHITECTURE}.{ours}") for ours, theirs in _FIELDS.items()}
    epsilon = config["layer_norm_epsilon"]
    rounded = {"layer_norm_epsilon": float(f"{epsilon:.6g}")} if isinstance(epsilon, float) else {}  # it is fp32 there
    return {"model_type": "gpt2", **config, **rounded}


GGUF = GGUFForm(
    architecture=ARCHITECTURE,
    to_fields=to_gguf_fields,
    from_fields=from_gguf_fields,
    to_tensors=to_gguf_tensors,
    from_tensors=from_gguf_tensors,
    graph=gguf_features,
)
