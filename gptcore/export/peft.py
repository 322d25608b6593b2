"""Low-rank adapters to and from the library peft: ``adapter_config.json`` and ``adapter_model.safetensors``.

peft's pairs of matrices are ours (peft, ``tuners/lora/layer.py``); GPT-2's layers in transformers are stored inputs
first, which peft is told by ``fan_in_fan_out``. Where transformers has several matrices in the place of one of
ours, they share the first matrix of the pair, or, on the way in, are stacked.

Shapes: r rank, I inputs, O outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptcore import checkpoint
from gptcore.checkpoint import Loaded, ModelSpec
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.families import Family, family_of
from gptcore.export.hf import write_hf
from gptcore.export.places import check_place, labels_of
from gptcore.files import read_json_object, whole_folder, write_json
from gptcore.models import Model
from gptcore.nn.surgery import replace_modules
from gptcore.transforms import LoRA, LoRALinear

_CONFIG, _WEIGHTS, _BASE = "adapter_config.json", "adapter_model.safetensors", "base"
_PREFIX: Final = "base_model.model."
_PLAIN: Final[dict[str, Any]] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
}


def export_peft(source: Path, folder: Path) -> Path:
    """Write a checkpoint with a LoRA update as an adapter for peft, its base beside it in ``base`` for transformers.

    Raises:
        ConfigError: the checkpoint has no update or several, is a classifier, or the folder holds something else.
        ExportMismatch: the base was read back and is not the model's.
    """
    check_place(folder, marks=(_CONFIG, _WEIGHTS), others=(_BASE,))
    loaded = checkpoint.load(source)
    if labels_of(loaded):
        raise ConfigError(f"{source} is a classifier, whose head is trained whole; export it with --to hf, merged")
    updates = [transform for transform in loaded.spec.transforms if isinstance(transform, LoRA)]
    if len(updates) != 1 or updates[0].also_train:
        raise ConfigError(
            f"{source} has {len(updates)} LoRA updates; an adapter for peft is exactly one, of linear layers"
        )
    (update,), family = updates, family_of(loaded.decoder)
    tensors, targets = _to_peft(loaded, family)
    base = loaded._replace(model=_without_updates(loaded))
    with whole_folder(folder) as partial:
        (partial / _BASE).mkdir()
        write_hf(partial / _BASE, base)
        checkpoint.save_tensors(tensors, partial / _WEIGHTS, path=folder)
        own = {
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str((folder / _BASE).absolute()),
            "r": update.rank,
            "lora_alpha": update.alpha,
            "lora_dropout": update.dropout,
            "target_modules": sorted(targets),
            "fan_in_fan_out": family.transposed,
            "inference_mode": True,
        }
        write_json(partial / _CONFIG, {**_PLAIN, **own})
    return folder


def import_peft(folder: Path, base: Path, out: Path) -> Path:
    """Make a checkpoint of an adapter that peft wrote and the checkpoint that it adapts.

    Raises:
        CheckpointError: a file is missing or damaged, the adapter is no plain LoRA, or does not fit the base.
    """
    config = read_json_object(folder / _CONFIG, CheckpointError)
    for name, value in _PLAIN.items():
        if config.get(name, value) not in (value, None):
            raise CheckpointError(f"{folder}: {name} is {config[name]!r}; only {value!r} can be imported")
    rank, alpha, dropout = (config.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
    if (
        not isinstance(rank, int)
        or rank < 1
        or not isinstance(alpha, int | float)
        or not isinstance(dropout, int | float)
    ):
        raise CheckpointError(f"{folder}: r, lora_alpha and lora_dropout are {rank!r}, {alpha!r} and {dropout!r}")
    try:
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / _WEIGHTS} cannot be read: {error}") from error
    loaded = checkpoint.load(base)
    pairs = _from_peft(tensors, loaded, place=folder)
    widest = max(len(a) for a, _ in pairs.values())
    targets = tuple(dict.fromkeys(name.rpartition(".")[2] for name in pairs))
    update = LoRA(rank=widest, alpha=float(alpha) / rank * widest, dropout=float(dropout), targets=targets)
    model = update.apply(loaded.model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    if layers.keys() != pairs.keys():
        raise CheckpointError(f"{folder} adapts some blocks and not others: {sorted(layers.keys() ^ pairs.keys())[:3]}")
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            layers[name].lora_a.zero_()[: len(a)] = a
            layers[name].lora_b.zero_()[:, : len(a)] = b
    spec = ModelSpec(
        loaded.spec.model,
        transforms=(*loaded.spec.transforms, update),
        template=loaded.spec.template,
        tokenizer_digest=loaded.tokenizer.digest,
    )
    checkpoint.save(out, model=model, spec=spec, tokenizer=loaded.tokenizer)
    return out


def _to_peft(loaded: Loaded, family: Family) -> tuple[dict[str, Tensor], set[str]]:
    """The pairs under peft's names, and the layers that they adapt."""
    names, tensors, targets = family.names(loaded.model.config), {}, set()
    for name, module in loaded.model.named_modules():
        if not isinstance(module, LoRALinear):
            continue
        theirs, rows = names[f"{name}.weight"], family.rows(loaded.model.config, f"{name}.weight")
        parts = module.lora_b.detach().split(rows) if rows else (module.lora_b.detach(),)
        for weight, part in zip(theirs, parts, strict=True):
            layer = weight.removesuffix(".weight")
            targets.add(".".join(layer.split(".")[-2:]))
            tensors[f"{_PREFIX}{layer}.lora_A.weight"] = module.lora_a.detach().clone()
            tensors[f"{_PREFIX}{layer}.lora_B.weight"] = part.clone()
    return tensors, targets


def _from_peft(tensors: dict[str, Tensor], loaded: Loaded, *, place: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Our layers' names to their pairs (r, I) and (O, r); what transformers has apart is stacked."""
    family, left, pairs = family_of(loaded.decoder), dict(tensors), {}
    config, own = loaded.model.config, dict(loaded.model.named_parameters())
    for ours, theirs in family.names(config).items():
        n_outputs, n_inputs = own[ours].shape[0], own[ours].shape[-1]
        rows = family.rows(config, ours) or [n_outputs]
        a_parts, b_parts, first = [], [], 0
        for weight, n_rows in zip(theirs, rows, strict=True):
            layer = _PREFIX + weight.removesuffix(".weight")
            a, b = (left.pop(f"{layer}.lora_{side}.weight", None) for side in "AB")
            if a is not None and b is not None:
                if a.dim() != 2 or a.shape[1] != n_inputs or b.shape != (n_rows, len(a)):
                    raise CheckpointError(f"{place}: {layer} has pairs of shape {tuple(a.shape)} and {tuple(b.shape)}")
                whole = torch.zeros(n_outputs, len(a))
                whole[first : first + n_rows] = b.float()
                a_parts.append(a.float())
                b_parts.append(whole)
            first += n_rows
        if a_parts:
            shared = len(a_parts) == len(theirs) and all(torch.equal(a, a_parts[0]) for a in a_parts)
            pair = (a_parts[0], sum(b_parts[1:], b_parts[0])) if shared else (torch.cat(a_parts), torch.cat(b_parts, 1))
            pairs[ours.removesuffix(".weight")] = pair
    if left or not pairs:
        raise CheckpointError(f"{place} has pairs for other layers than the base: {sorted(left)[:3]}")
    return pairs


def _without_updates(loaded: Loaded) -> Model:
    """The model without its updates, in place."""
    replace_modules(
        loaded.model,
        lambda _, module: isinstance(module, LoRALinear),
        lambda module: cast(LoRALinear, module).base,
    )
    return loaded.decoder
