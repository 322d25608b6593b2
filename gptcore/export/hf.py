"""Folders that Hugging Face's transformers reads and writes: config.json, model.safetensors, and the tokenizer.

Language models become ``GPT2LMHeadModel`` or ``LlamaForCausalLM``, classifiers ``GPT2ForSequenceClassification``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from gptcore import checkpoint
from gptcore.checkpoint import Loaded, ModelSpec
from gptcore.data.templates import template_by_name
from gptcore.errors import CheckpointError
from gptcore.export.every import HF
from gptcore.export.exporter import Exporter, Job, Outputs, outputs_of, tokens_of, write_export
from gptcore.export.families import find_hf_form, hf_form, model_with
from gptcore.export.gguf_tokens import PROBES
from gptcore.export.hf_classifier import (
    classifier_config,
    classifier_from_hf,
    labels_in,
    pad_classifier,
    score_tensors,
)
from gptcore.export.hf_tokens import FILES, check_hf_tokenizer, read_hf_reader, read_hf_tokenizer, write_hf_tokenizer
from gptcore.files import MANIFEST, read_json_object, verify_folder, write_json
from gptcore.models import Model, ModelConfig
from gptcore.models.family import HFForm
from gptcore.readers import TextReader
from gptcore.tokenizer import END_OF_TEXT, Tokenizer


def export_hf(source: Path, folder: Path) -> Path:
    """Write a checkpoint as a folder for transformers; updates beside its layers are merged first.

    An earlier export in the same place is replaced; anything else there is not touched. The folder is read back and its
    logits are compared with the checkpoint's before it takes its place.

    Raises:
        ConfigError: a layer is not plain, the checkpoint is a classifier that transformers has no form for, or the
            folder holds something else.
        ExportMismatch: what was read back is not the model.
    """
    write_export(HF, source, folder)
    return folder


class HFExporter(Exporter):
    """Language models, and classifiers where transformers has a form for them."""

    marks = ("config.json",)
    others = ("model.safetensors", "generation_config.json", *FILES)

    def take(self, job: Job) -> Job:
        """As any form; a classifier gets a token for padding.

        Raises:
            ConfigError: transformers has no form for such a model.
        """
        job = super().take(job)
        hf_form(job.loaded.decoder)
        return job._replace(loaded=pad_classifier(job.loaded)) if _labels(job.loaded) else job

    def write(self, job: Job, folder: Path) -> None:
        """Write the folder."""
        write_hf(folder, job.loaded)

    def read(self, job: Job, folder: Path) -> Outputs:
        """The logits of the folder's model, behind a look at its tokenizer."""
        return outputs_of(read_hf(folder, job.loaded), tokens_of(job))


def write_hf(folder: Path, loaded: Loaded) -> None:
    """Write the files for transformers into an empty folder.

    Args:
        folder: where to.
        loaded: of plain layers; a classifier is padded.

    Raises:
        ConfigError: transformers has no form for it.
    """
    form, labels = hf_form(loaded.decoder), _labels(loaded)
    template = template_by_name(loaded.spec.template) if loaded.spec.template else None
    config = form.to_config(loaded.model.config, end_of_text=loaded.tokenizer.end_of_text)
    tensors = form.to_tensors(loaded.model)
    if labels:
        config |= classifier_config(loaded, labels)
        tensors |= score_tensors(loaded.decoder, tensors)
        tensors.pop("lm_head.weight", None)
    else:
        config["eos_token_id"] = template.end_id(loaded.tokenizer) if template else loaded.tokenizer.end_of_text
        ends = {name: config[name] for name in ("bos_token_id", "eos_token_id")}
        write_json(folder / "generation_config.json", {**ends, "do_sample": False})
    write_json(folder / "config.json", config)
    checkpoint.save_tensors(tensors, folder / "model.safetensors", path=folder)
    length, reader = loaded.decoder.config.context_length, _reader(loaded)
    write_hf_tokenizer(folder, loaded.tokenizer, context_length=length, template=template, reader=reader)


def read_hf(folder: Path, loaded: Loaded) -> Model:
    """The model in a folder that ``write_hf`` has written, behind a look at the tokenizer beside it.

    Raises:
        CheckpointError: a file is damaged, or the tokenizer there is another one.
    """
    model, _ = hf_model_in(folder)
    texts = [text for text in PROBES if END_OF_TEXT not in text]
    length = loaded.decoder.config.context_length
    check_hf_tokenizer(folder, loaded.tokenizer, context_length=length, probes=texts, reader=_reader(loaded))
    return model


def _labels(loaded: Loaded) -> tuple[str, ...]:
    return loaded.spec.outputs if loaded.spec.head == "classes" else ()


def _reader(loaded: Loaded) -> TextReader | None:
    return loaded.spec.reader if _labels(loaded) else None


def import_hf(folder: Path, out: Path, *, tokenizer: Tokenizer | None = None) -> Path:
    """Make a checkpoint of a folder that transformers wrote.

    Args:
        folder: has config.json and model.safetensors; unless ``tokenizer`` is given, also the tokenizer's files, which
            a model with GPT-2's vocabulary may do without.
        out: the checkpoint folder to write.
        tokenizer: used instead of the folder's.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is of no family of ours.
    """
    _verify(folder)
    model, spec = hf_model_in(folder)
    known = tokenizer or read_hf_tokenizer(folder, vocab_size=model.config.vocab_size)
    if known.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer of {model.config.vocab_size} tokens, as the model has, "
            f"got {known.vocab_size}"
        )
    reader = TextReader()
    if spec.transforms:
        reader = read_hf_reader(folder, context_length=model.config.context_length)
    spec = replace(spec, tokenizer_digest=known.digest, reader=reader)
    checkpoint.save(out, model=model, spec=spec, tokenizer=known)
    return out


def read_hf_config(folder: Path) -> ModelConfig:
    """The sizes of the model in a folder that transformers wrote.

    Raises:
        CheckpointError: ``config.json`` is missing or damaged, or the model is of no family of ours.
    """
    return _config_in(folder)[2]


def _config_in(folder: Path) -> tuple[dict[str, Any], HFForm, ModelConfig]:
    data = read_json_object(folder / "config.json", CheckpointError)
    form = find_hf_form(data.get("model_type"), place="config.json")
    return data, form, form.from_config(data)


def hf_model_in(folder: Path) -> tuple[Model, ModelSpec]:
    """The model in a folder for transformers, in evaluation mode, and what it is.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is of no family of ours.
    """
    data, form, config = _config_in(folder)
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / 'model.safetensors'} cannot be read: {error}") from error
    labels = labels_in(data)
    if not labels:
        return model_with(form, config, tensors, place=str(folder)), ModelSpec(config)
    return classifier_from_hf(form, config, tensors, labels=labels, place=str(folder))


def _verify(folder: Path) -> None:
    """Check a folder that ``export_hf`` wrote; others have no manifest."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        verify_folder(folder, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (or delete {MANIFEST} if another program changed it on purpose)") from error
