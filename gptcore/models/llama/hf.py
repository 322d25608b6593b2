"""Llama in Hugging Face's format: names, shapes and configuration of ``LlamaForCausalLM``.

transformers keeps queries, keys and values, and gate and up, in matrices of their own
(transformers, ``models/llama/modeling_llama.py``).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from gptcore.errors import CheckpointError, ConfigError
from gptcore.models.family import HFForm
from gptcore.models.llama.model import Llama, LlamaConfig

_TOP = {
    "token_embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_BLOCK = {
    "norm_1": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "norm_2": ("post_attention_layernorm",),
    "feedforward.up": ("mlp.gate_proj", "mlp.up_proj"),
    "feedforward.down": ("mlp.down_proj",),
}
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "width": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_width": "intermediate_size",
}


def name_map(config: LlamaConfig) -> dict[str, tuple[str, ...]]:
    """Our parameter names to theirs, without a tied head; several of theirs stand one below the other in ours."""
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _TOP.items()}
    if config.tied_head:
        del names["head.weight"]
    for i in range(config.n_layers):
        for ours, theirs in _BLOCK.items():
            names[f"blocks.{i}.{ours}.weight"] = tuple(f"model.layers.{i}.{name}.weight" for name in theirs)
    return names


def rows_of(config: LlamaConfig, name: str) -> list[int]:
    """Rows of each of their matrices in one of ours, by our name; empty where both are the same."""
    size = config.width // config.n_heads
    if name.endswith("attention.qkv.weight"):
        return [config.width, config.kv_heads * size, config.kv_heads * size]
    return [config.hidden_size] * 2 if name.endswith("feedforward.up.weight") else []


def to_hf_tensors(model: Llama) -> dict[str, Tensor]:
    """The weights under their names."""
    state = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for ours, theirs in name_map(model.config).items():
        tensor, rows = state[ours].detach(), rows_of(model.config, ours)
        parts = tensor.split(rows) if rows else (tensor,)
        tensors |= {name: part.contiguous().clone() for name, part in zip(theirs, parts, strict=True)}
    return tensors


def to_hf_config(config: LlamaConfig, *, end_of_text: int) -> dict[str, Any]:
    """``config.json``; dropout is not in it, since transformers' Llama has none but in attention."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.hidden_size,
        "head_dim": config.width // config.n_heads,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": config.tied_head,
        **_FIXED,
        "torch_dtype": "float32",
    }


def from_hf_config(data: dict[str, Any]) -> LlamaConfig:
    """Our configuration from a ``config.json``.

    Raises:
        CheckpointError: the model is not a Llama, or has a shape we do not build.
    """
    if data.get("model_type") != "llama":
        raise CheckpointError(f"config.json describes a {data.get('model_type')!r} model; only llama can be read here")
    sizes: dict[str, Any] = {ours: data.get(theirs) for ours, theirs in _SIZES.items()}
    sizes["n_kv_heads"] = sizes["n_heads"] if sizes["n_kv_heads"] is None else sizes["n_kv_heads"]
    for ours, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"config.json has no usable {_SIZES[ours]!r}: it is {value!r}, not a whole number")
    for name, value in _FIXED.items():
        if data.get(name, value) != value:
            raise CheckpointError(f"{name} is {data[name]!r}; only {value!r} can be imported")
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind != "default":
        raise CheckpointError(f"rope_type is {kind!r}; only 'default' can be imported")
    base, epsilon = rope.get("rope_theta", data.get("rope_theta", 10_000.0)), data.get("rms_norm_eps", 1e-6)
    for name, number in (("rope_theta", base), ("rms_norm_eps", epsilon)):
        if not isinstance(number, int | float) or not number > 0:
            raise CheckpointError(f"config.json has no usable {name!r}: it is {number!r}")
    try:
        config = LlamaConfig(
            **sizes, rope_base=base, norm_epsilon=epsilon, tied_head=bool(data.get("tie_word_embeddings", False))
        )
    except ConfigError as error:
        raise CheckpointError(f"config.json describes a Llama that cannot be built: {error}") from error
    usual = dataclasses.replace(config, hidden_width=None)
    config = usual if usual.hidden_size == config.hidden_size else config
    if data.get("head_dim") not in (None, config.width // config.n_heads):
        raise CheckpointError(
            f"head_dim is {data['head_dim']!r}; only hidden_size / num_attention_heads can be imported"
        )
    return config


def load_hf_tensors(model: Llama, tensors: dict[str, Tensor]) -> None:
    """Put their weights into our model.

    Raises:
        CheckpointError: a weight is missing, unknown, or of another shape.
    """
    names = name_map(model.config)
    wanted = {name for theirs in names.values() for name in theirs}
    ignored = {name for name in tensors if name.endswith("rotary_emb.inv_freq")}  # of old files; it is computed
    ignored |= {"lm_head.weight"} if model.config.tied_head else set()
    missing, extra = sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted - ignored)
    if missing or extra:
        raise CheckpointError(f"the weights do not fit config.json: missing {missing[:3]}, unknown {extra[:3]}")
    own = dict(model.named_parameters())
    with torch.no_grad():
        for ours, theirs in names.items():
            rows = rows_of(model.config, ours) or [len(own[ours])]
            for name, n_rows in zip(theirs, rows, strict=True):
                shape = (n_rows, *own[ours].shape[1:])
                if tensors[name].shape != shape:
                    raise CheckpointError(f"{name} has shape {tuple(tensors[name].shape)}, config.json needs {shape}")
            own[ours].copy_(torch.cat([tensors[name].float() for name in theirs]))


HF = HFForm(
    model_type="llama",
    to_config=to_hf_config,
    from_config=from_hf_config,
    to_tensors=to_hf_tensors,
    load_tensors=load_hf_tensors,
    names=name_map,
    rows=rows_of,
    transposed=False,
)
