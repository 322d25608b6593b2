"""Adapters in the form of the library peft, and back.

What an adapter's tensors are called there, and how they are read, is the adapter's own affair
(``gptcore/transforms/adapter.py``); here are the folder, the names of layers, and the comparison. GPT-2's layers in
transformers are stored inputs first, which peft calls ``fan_in_fan_out``. Where transformers has several matrices
in the place of one of ours, each has its part of the update.

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptcore import checkpoint
from gptcore.checkpoint import Loaded
from gptcore.components import load_components
from gptcore.config import KINDS, Json
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.every import PEFT
from gptcore.export.exporter import Exporter, Job, Outputs, outputs_of, tokens_of, write_export
from gptcore.export.families import hf_form
from gptcore.export.hf import read_hf, write_hf
from gptcore.files import read_json_object, write_json
from gptcore.models import Model
from gptcore.models.base import as_decoder
from gptcore.models.blueprint import require_plain
from gptcore.models.family import HFForm
from gptcore.nn import Adapted, strip_adapters
from gptcore.transforms import Adapter, PeftPart

_CONFIG, _WEIGHTS, _BASE = "adapter_config.json", "adapter_model.safetensors", "base"
_PREFIX: Final = "base_model.model."


def export_peft(source: Path, folder: Path) -> Path:
    """Write a checkpoint with an adapter for peft, its base beside it in ``base`` for transformers.

    Base and adapter are read back together, and their logits are compared with the checkpoint's.

    Raises:
        ConfigError: the checkpoint has no adapter, several, or one without a form in peft; it gives no words; a layer
            of its base is not plain; or the folder holds something else.
        ExportMismatch: what was read back is not the model.
    """
    write_export(PEFT, source, folder)
    return folder


class PeftExporter(Exporter):
    """The update beside the layers is kept apart from its base."""

    marks = (_CONFIG, _WEIGHTS)
    others = (_BASE,)

    def take(self, job: Job) -> Job:
        """The checkpoint as it is.

        Raises:
            ConfigError: it has no adapter, or several.
        """
        _adapter_of(job)
        return job

    def write(self, job: Job, folder: Path) -> None:
        """Write adapter and base; the adapter is taken off the job's model.

        Raises:
            ConfigError: the adapter has no form in peft, or a layer of its base is not plain.
        """
        adapter, model = _adapter_of(job), job.loaded.decoder
        form, config = hf_form(model), adapter.to_peft()
        layers = _to_peft(model, adapter, form)
        tensors = {f"{_PREFIX}{layer}.{key}": value for layer, part in layers.items() for key, value in part.items()}
        base = job.loaded._replace(model=strip_adapters(model))
        require_plain(base.model, what=f"exporting {job.source}")
        (folder / _BASE).mkdir()
        write_hf(folder / _BASE, base)
        checkpoint.save_tensors(tensors, folder / _WEIGHTS, path=folder)
        own = {
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str((Path(job.out) / _BASE).absolute()),
            "target_modules": sorted({".".join(layer.split(".")[-2:]) for layer in layers}),
            "fan_in_fan_out": form.transposed,
            "inference_mode": True,
        }
        write_json(folder / _CONFIG, {**config, **own})

    def read(self, job: Job, folder: Path) -> Outputs:
        """The logits of base and adapter together."""
        model, _ = _adapt(folder, read_hf(folder / _BASE, job.loaded))
        return outputs_of(model, tokens_of(job))


def _adapter_of(job: Job) -> Adapter:
    """The one adapter of a checkpoint.

    Raises:
        ConfigError: it has another number of them.
    """
    adapters = [transform for transform in job.loaded.spec.transforms if isinstance(transform, Adapter)]
    if len(adapters) != 1:
        raise ConfigError(f"{job.source} has {len(adapters)} adapters; a folder for peft is of exactly one")
    return adapters[0]


def import_peft(folder: Path, base: Path, out: Path) -> Path:
    """Make a checkpoint of an adapter that peft wrote and the checkpoint that it adapts.

    Raises:
        CheckpointError: a file is missing or damaged, the adapter is of no kind of ours, or does not fit the base.
    """
    loaded: Loaded = checkpoint.load(base)
    model, update = _adapt(folder, loaded.decoder)
    spec = replace(loaded.spec, transforms=(*loaded.spec.transforms, update))
    checkpoint.save(out, model=model, spec=spec, **loaded.readers._asdict())
    return out


def _adapt(folder: Path, base: Model) -> tuple[Model, Adapter]:
    """The base with a folder's adapter on it, in place and in evaluation mode."""
    config = read_json_object(folder / _CONFIG, CheckpointError)
    kind = _kind(config, folder)
    try:
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / _WEIGHTS} cannot be read: {error}") from error
    update, own = kind.from_peft(config, _from_peft(tensors, base, place=folder), place=folder)
    model = as_decoder(update.apply(base), purpose="an adapter of peft's")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}
    if layers.keys() != own.keys():
        raise CheckpointError(f"{folder} adapts some blocks and not others: {sorted(layers.keys() ^ own.keys())[:3]}")
    with torch.no_grad():
        for name, values in own.items():
            for key, value in values.items():
                parameter = layers[name].get_parameter(key)
                if parameter.shape != value.shape:
                    shapes = f"{tuple(value.shape)}; expected {tuple(parameter.shape)}"
                    raise CheckpointError(f"{folder}: {name} has {key} of shape {shapes}")
                parameter.copy_(value)
    return model.eval(), update


def _kind(config: Json, folder: Path) -> type[Adapter]:
    """The kind of adapter that reads a folder of peft's."""
    load_components()
    kinds = [each for each in KINDS.values() if issubclass(each, Adapter) and each is not Adapter]
    reasons = {kind: kind.find_peft_mismatch(config) for kind in kinds}
    for kind, reason in reasons.items():
        if not reason:
            return kind
    raise CheckpointError(f"{folder}: {'; '.join(reasons.values())}")


def _to_peft(model: Model, adapter: Adapter, form: HFForm) -> dict[str, dict[str, Tensor]]:
    """transformers' names of the adapted layers to the adapter's tensors under peft's last names."""
    names = form.names(model.config)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, Adapted):
            continue
        weight = f"{name}.weight"
        theirs = names[weight]
        rows = form.rows(model.config, weight) or [len(module.dense())]
        for layer, part in zip(theirs, adapter.peft_parts(module, rows), strict=True):
            layers[layer.removesuffix(".weight")] = part
    return layers


def _from_peft(tensors: dict[str, Tensor], base: Model, *, place: Path) -> dict[str, list[PeftPart]]:
    """What there is for each of our layers, by name."""
    form, left, layers = hf_form(base), dict(tensors), {}
    own = dict(base.named_parameters())
    for ours, theirs in form.names(base.config).items():
        if not ours.endswith(".weight") or ours not in own:
            continue
        parts = []
        for weight, n_rows in zip(theirs, form.rows(base.config, ours) or [len(own[ours])], strict=True):
            stem = f"{_PREFIX}{weight.removesuffix('.weight')}."
            mine = [name for name in left if name.startswith(stem)]
            parts.append(PeftPart({name.removeprefix(stem): left.pop(name) for name in mine}, n_rows))
        if any(part.tensors for part in parts):
            layers[ours.removesuffix(".weight")] = parts
    if left or not layers:
        raise CheckpointError(f"{place} has pairs for other layers than the base: {sorted(left)[:3]}")
    return layers
