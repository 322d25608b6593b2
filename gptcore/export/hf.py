"""Folders that Hugging Face's transformers reads and writes: config.json, model.safetensors, and the tokenizer.

The tokenizer is in vocab.json and merges.txt, as OpenAI and transformers before version 5 wrote it (and we do), or in
tokenizer.json, as transformers writes it today.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.vocabulary import merges_of, tokenizer_json, tokenizer_of, vocabulary_of
from gptcore.files import MANIFEST, verify_folder, whole_folder, write_json, write_text
from gptcore.models.gpt import GPT, GPTConfig
from gptcore.models.gpt.hf import from_hf_config, load_hf_tensors, to_hf_config, to_hf_tensors
from gptcore.tokenizer import Tokenizer, gpt2_tokenizer
from gptcore.transforms import Classifier, QuantizedLinear, merge_lora

GPT2_VOCABULARY = 50257
_EXPORTED = ("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json")

log = logging.getLogger(__name__)


def export_hf(source: Path, folder: Path) -> Path:
    """Write a checkpoint as a folder for ``transformers.GPT2LMHeadModel``; LoRA updates are merged first.

    An earlier export in the same place is replaced; anything else there is not touched.

    Raises:
        ConfigError: the checkpoint is no GPT-2 language model (a classifier, or quantized), or the folder holds
            something else.
    """
    if folder.exists() and not _is_ours(folder):
        raise ConfigError(f"{folder} exists and is no earlier export, so it is not replaced; give a folder that is new")
    loaded = checkpoint.load(source)
    model = merge_lora(loaded.model)
    if not isinstance(model, GPT) or any(isinstance(part, QuantizedLinear) for part in model.modules()):
        raise ConfigError(f"{source} is quantized or no GPT-2; export the fp32 checkpoint it was made from")
    if any(isinstance(transform, Classifier) for transform in loaded.spec.transforms):
        raise ConfigError(f"{source} is a classifier; only language models can be exported to GPT2LMHeadModel")
    merges = merges_of(loaded.tokenizer)
    with whole_folder(folder) as partial:
        write_json(partial / "config.json", to_hf_config(model.config, end_of_text=loaded.tokenizer.end_of_text))
        checkpoint.save_tensors(to_hf_tensors(model), partial / "model.safetensors", path=folder)
        write_json(partial / "vocab.json", vocabulary_of(loaded.tokenizer))
        write_text(partial / "merges.txt", "#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
        special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": model.config.context_length, **special}
        write_json(partial / "tokenizer_config.json", settings)
    return folder


def import_hf(folder: Path, out: Path, *, tokenizer: Tokenizer | None = None) -> Path:
    """Make a checkpoint of a folder that transformers wrote.

    Args:
        folder: has config.json and model.safetensors; unless ``tokenizer`` is given, also the tokenizer's files, which
            a model with GPT-2's vocabulary may do without.
        out: the checkpoint folder to write.
        tokenizer: used instead of the folder's.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is not a GPT-2.
    """
    _verify(folder)
    config = read_hf_config(folder)
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / 'model.safetensors'} cannot be read: {error}") from error
    model = config.build()
    load_hf_tensors(model, tensors)
    known = tokenizer or _read_tokenizer(folder, vocab_size=config.vocab_size)
    if known.vocab_size > config.vocab_size:
        raise CheckpointError(f"{folder}: the tokenizer has {known.vocab_size} words, the model {config.vocab_size}")
    spec = ModelSpec(config, tokenizer_digest=known.digest)
    checkpoint.save(out, model=model, spec=spec, tokenizer=known)
    return out


def read_hf_config(folder: Path) -> GPTConfig:
    """The sizes of the model in a folder that transformers wrote.

    Raises:
        CheckpointError: ``config.json`` is missing or damaged, or the model is not a GPT-2.
    """
    return from_hf_config(_read_json(folder / "config.json"))


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or what ``export_hf`` wrote there, and nothing else."""
    if not folder.is_dir():
        return False
    found = {path.name for path in folder.iterdir()}
    return not found or ({MANIFEST, "config.json"} <= found <= {MANIFEST, *_EXPORTED})


def _verify(folder: Path) -> None:
    """Check a folder that ``export_hf`` wrote; others have no manifest."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        verify_folder(folder, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (or delete {MANIFEST} if another program changed it on purpose)") from error


def _read_tokenizer(folder: Path, *, vocab_size: int) -> Tokenizer:
    old, new = (folder / "vocab.json", folder / "merges.txt"), folder / "tokenizer.json"
    if new.is_file() and not old[0].is_file():
        vocabulary, merges = tokenizer_json(_read_json(new), path=new)
    elif any(path.is_file() for path in old):
        vocabulary, merges = _read_json(old[0]), _read_merges(old[1])
    elif vocab_size == GPT2_VOCABULARY:
        log.warning("%s has no tokenizer; its %d words are taken for GPT-2's", folder, vocab_size)
        return gpt2_tokenizer()
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer, neither tokenizer.json nor vocab.json and merges.txt; save it there, too: "
            "tokenizer.save_pretrained(...)"
        )
    return tokenizer_of(folder.name, vocabulary=vocabulary, merges=merges)


def _read_merges(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return [line for line in lines if line and not line.startswith("#version")]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return data
