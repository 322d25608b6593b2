"""GPT-2 in Hugging Face's format: names, shapes and configuration.

transformers' ``GPT2LMHeadModel`` stores linear layers as ``Conv1D``, that is transposed, inputs first
(transformers, ``models/gpt2/modeling_gpt2.py``). Its query/key/value projection always has a bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gptcore.errors import CheckpointError
from gptcore.models.gpt.model import GPT, GPTConfig

_TOP = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}
_BLOCK = {
    "norm_1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm_2": "ln_2",
    "feedforward.up": "mlp.c_fc",
    "feedforward.down": "mlp.c_proj",
}
_FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def name_map(config: GPTConfig) -> dict[str, str]:
    """Our parameter names to theirs, without a tied head."""
    names = dict(_TOP)
    for i in range(config.n_layers):
        for ours, theirs in _BLOCK.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{i}.{ours}.{kind}"] = f"transformer.h.{i}.{theirs}.{kind}"
    if not config.tied_head:
        names["head.weight"] = "lm_head.weight"
    return names


def to_hf_tensors(model: GPT) -> dict[str, Tensor]:
    """The weights under their names and in their layout; a missing qkv bias is written as zeros."""
    state = model.state_dict()
    tensors = {}
    for ours, theirs in name_map(model.config).items():
        if ours not in state and ours.endswith("qkv.bias"):
            state[ours] = torch.zeros(3 * model.config.width)
        tensor = state[ours].detach()
        tensors[theirs] = (tensor.T if theirs.endswith(TRANSPOSED) else tensor).contiguous().clone()
    return tensors


def to_hf_config(config: GPTConfig, *, end_of_text: int) -> dict[str, Any]:
    """``config.json``; ``n_ctx`` is there for converters that still read it."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.width,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "float32",
    }


def from_hf_config(data: dict[str, Any]) -> GPTConfig:
    """Our configuration from a ``config.json``.

    Raises:
        CheckpointError: the model is not a GPT-2, or has a shape we do not build.
    """
    if data.get("model_type") != "gpt2":
        raise CheckpointError(f"config.json describes a {data.get('model_type')!r} model; only gpt2 can be imported")
    sizes = {name: data.get(name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    for name, value in sizes.items():
        if not isinstance(value, int):
            raise CheckpointError(f"config.json has no usable {name!r}: it is {value!r}, not a whole number")
    for name, value in _FIXED.items():
        if data.get(name, value) != value:
            raise CheckpointError(f"{name} is {data[name]!r}; only {value!r} can be imported")
    width = data["n_embd"]
    if data.get("n_inner") not in (None, 4 * width):
        raise CheckpointError(f"n_inner is {data['n_inner']}; only 4 * n_embd = {4 * width} can be imported")
    if data.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        raise CheckpointError(f"activation_function {data['activation_function']!r} is not GPT-2's tanh-GELU")
    return GPTConfig(
        vocab_size=data["vocab_size"],
        context_length=data["n_positions"],
        width=width,
        n_layers=data["n_layer"],
        n_heads=data["n_head"],
        dropout=0.0,
        qkv_bias=True,
        tied_head=bool(data.get("tie_word_embeddings", True)),
    )


def load_hf_tensors(model: GPT, tensors: dict[str, Tensor]) -> None:
    """Put their weights into our model; buffers of old files (attention masks) are left out.

    Raises:
        CheckpointError: a weight is missing, unknown, or of another shape.
    """
    prefixed = {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": tensor
        for name, tensor in tensors.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    names = name_map(model.config)
    if model.config.tied_head:
        prefixed.pop("lm_head.weight", None)
    missing, extra = sorted(set(names.values()) - prefixed.keys()), sorted(prefixed.keys() - set(names.values()))
    if missing or extra:
        raise CheckpointError(f"the weights do not fit config.json: missing {missing[:3]}, unknown {extra[:3]}")
    own = dict(model.named_parameters())
    with torch.no_grad():
        for ours, theirs in names.items():
            tensor = prefixed[theirs].T if theirs.endswith(TRANSPOSED) else prefixed[theirs]
            if own[ours].shape != tensor.shape:
                raise CheckpointError(
                    f"{theirs} has shape {tuple(prefixed[theirs].shape)}, config.json needs {tuple(own[ours].shape)}"
                )
            own[ours].copy_(tensor.float())
