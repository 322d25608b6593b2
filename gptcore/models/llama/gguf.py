"""Llama in GGUF: llama.cpp's names and fields of the architecture ``llama`` (``src/models/llama.cpp``).

Reached by way of Hugging Face's form. llama.cpp turns neighbouring numbers together, transformers those that stand half
a head apart: the rows of the query and key matrices are put in llama.cpp's order, as its ``conversion/llama.py`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gptcore.models.family import GGUFForm
from gptcore.models.llama.gguf_graph import gguf_features
from gptcore.models.renaming import rename_tensor

ARCHITECTURE = "llama"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_BACK = {theirs: hf for hf, theirs in _NAMES.items()}
_HEADS = {"self_attn.q_proj.weight": "num_attention_heads", "self_attn.k_proj.weight": "num_key_value_heads"}
_FIELDS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
}


def to_gguf_tensors(tensors: Mapping[str, Tensor], *, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Hugging Face's tensors under llama.cpp's names and in its order of rows."""
    written = {}
    for name, tensor in tensors.items():
        n_heads = _n_heads(name, config)
        ordered = tensor.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2) if n_heads else tensor
        written[rename_tensor(name, _NAMES, blocks="model.layers.", new_blocks="blk.")] = ordered
    return written


def from_gguf_tensors(tensors: Mapping[str, Tensor], *, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """llama.cpp's tensors under Hugging Face's names and in its order of rows; unknown names stay as they are."""
    read = {}
    for theirs, tensor in tensors.items():
        name = rename_tensor(theirs, _BACK, blocks="blk.", new_blocks="model.layers.")
        n_heads = _n_heads(name, config)
        fits = n_heads and tensor.dim() == 2 and tensor.shape[0] % (2 * n_heads) == 0
        read[name] = tensor.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2) if fits else tensor
    return read


def to_gguf_fields(config: Mapping[str, Any]) -> dict[str, int | float]:
    """The architecture's fields out of a ``config.json``, without the architecture's name in front."""
    return {ours: config[theirs] for ours, theirs in _FIELDS.items()}


def from_gguf_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``config.json`` would say of the model; what is missing is None there."""
    config = {theirs: fields.get(f"{ARCHITECTURE}.{ours}") for ours, theirs in _FIELDS.items()}
    epsilon = config["rms_norm_eps"]
    rounded = {"rms_norm_eps": float(f"{epsilon:.6g}")} if isinstance(epsilon, float) else {}  # it is fp32 there
    return {"model_type": "llama", **config, **rounded}


def _n_heads(name: str, config: Mapping[str, Any]) -> int:
    """Heads whose rows stand in another order; 0 in tensors that are the same in both."""
    return next((int(config[field]) for end, field in _HEADS.items() if name.endswith(end)), 0)


GGUF = GGUFForm(
    architecture=ARCHITECTURE,
    to_fields=to_gguf_fields,
    from_fields=from_gguf_fields,
    to_tensors=to_gguf_tensors,
    from_tensors=from_gguf_tensors,
    graph=gguf_features,
)
