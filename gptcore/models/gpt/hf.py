"""GPT-2 in Hugging Face's format: names, shapes and configuration.

transformers' ``GPT2LMHeadModel`` stores linear layers as ``Conv1D``, that is transposed, inputs first
(transformers, ``models/gpt2/modeling_gpt2.py``). Its query/key/value projection always has a bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gptcore.errors import CheckpointError, ConfigError
from gptcore.models.family import HFClassifier, HFForm
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
    """The weights under their names and in their layout; a missing qkv bias is written as zeros.

    transformers knows no model with fewer heads than fill the width: pruned ones are written as heads of zeros.

    Raises:
        ConfigError: the width is no multiple of the heads' width, or they are together wider.
    """
    state = _with_all_heads(model)
    tensors = {}
    for ours, theirs in name_map(model.config).items():
        if ours not in state and ours.endswith("qkv.bias"):
            state[ours] = torch.zeros(3 * model.config.width)
        tensor = state[ours].detach()
        tensors[theirs] = (tensor.T if theirs.endswith(TRANSPOSED) else tensor).contiguous().clone()
    return tensors


def _with_all_heads(model: GPT) -> dict[str, Tensor]:
    """The state dict, with as many heads as fill the width."""
    config, state = model.config, model.state_dict()
    n_heads, size = _n_heads(config), config.head_size
    if n_heads == config.n_heads:
        return state
    missing = (n_heads - config.n_heads) * size
    for name, tensor in state.items():
        if name.endswith(("attention.qkv.weight", "attention.qkv.bias")):
            parts = tensor.unflatten(0, (3, config.n_heads * size))  # (3, H * D, ...)
            zeros = parts.new_zeros(3, missing, *parts.shape[2:])
            state[name] = torch.cat([parts, zeros], dim=1).flatten(0, 1)
        elif name.endswith("attention.out.weight"):
            state[name] = torch.cat([tensor, tensor.new_zeros(len(tensor), missing)], dim=1)
    return state


def _n_heads(config: GPTConfig) -> int:
    """Heads of this width that fill the model's width."""
    if config.width % config.head_size or config.n_heads * config.head_size > config.width:
        raise ConfigError(
            f"{config.n_heads} heads of width {config.head_size} do not fit a width of {config.width}; transformers' "
            "GPT-2 has heads that together are as wide as the model, so this one cannot be exported to it"
        )
    return config.width // config.head_size


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
        "n_head": _n_heads(config),
        "n_inner": config.hidden_width,
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
    hidden = data.get("n_inner")
    if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
        raise CheckpointError(f"n_inner is {hidden!r}; it must be a whole number of at least 1, or null")
    if data.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        raise CheckpointError(f"activation_function {data['activation_function']!r} is not GPT-2's tanh-GELU")
    return GPTConfig(
        vocab_size=data["vocab_size"],
        context_length=data["n_positions"],
        width=width,
        n_layers=data["n_layer"],
        n_heads=data["n_head"],
        hidden_width=None if hidden == 4 * width else hidden,
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


HF = HFForm(
    model_type="gpt2",
    to_config=to_hf_config,
    from_config=from_hf_config,
    to_tensors=to_hf_tensors,
    load_tensors=load_hf_tensors,
    names=lambda config: {ours: (theirs,) for ours, theirs in name_map(config).items()},
    rows=lambda *_: [],
    transposed=True,
    classifier=HFClassifier("GPT2ForSequenceClassification", norm_bias="transformer.ln_f.bias"),
)
