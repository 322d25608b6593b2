"""The tokenizer's files of a folder for transformers.

``tokenizer.json`` is what transformers reads today, https://huggingface.co/docs/tokenizers; ``vocab.json`` and
``merges.txt`` are what its older versions and other programs read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as HFTokenizer

from gptcore.data.templates import PromptTemplate
from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.modelfile import chat_template
from gptcore.export.vocabulary import merges_of, tokenizer_json, tokenizer_of, vocabulary_of
from gptcore.files import read_json_object, write_json, write_text
from gptcore.readers import LongInputs, TextReader
from gptcore.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer, gpt2_tokenizer

FILES: Final = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
PAD: Final = "<|pad|>"
"""Fills the rows of a batch of texts that are classified; not the end of text, at which the class is read."""
GPT2_VOCABULARY: Final = 50257
_SIDES: Final[dict[str, str]] = {"head": "right", "tail": "left"}
"""On which side the libraries cut a text that is too long; they have no form for keeping both ends."""

log = logging.getLogger(__name__)


def write_hf_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    template: PromptTemplate | None,
    reader: TextReader | None = None,
) -> None:
    """Write all four files.

    Args:
        folder: where to.
        tokenizer: the model's; a classifier's has ``PAD``.
        context_length: the most tokens of a text.
        template: the prompt style, which becomes the chat template.
        reader: how a classifier reads a text; None for a language model. What has no form there, the two ends of a long
            text, is left to fail there, and not replaced by its head.

    Raises:
        ConfigError: the tokenizer splits words in another way than GPT-2.
    """
    if tokenizer.pattern != GPT2_PATTERN:
        raise ConfigError(f"tokenizer {tokenizer.name!r} splits text by {tokenizer.pattern!r}, and not as GPT-2 does")
    vocabulary, merges = vocabulary_of(tokenizer), merges_of(tokenizer)
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
    fast = HFTokenizer(
        models.BPE(vocab=vocabulary, merges=[(m.partition(" ")[0], m.partition(" ")[2]) for m in merges])
    )
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    fast.decoder = decoders.ByteLevel()
    names = sorted(tokenizer.special_tokens, key=lambda name: tokenizer.special_tokens[name])
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    if reader is not None and reader.end_token:
        fast.post_processor = processors.TemplateProcessing(
            single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, tokenizer.end_of_text)]
        )
    side = _SIDES.get(reader.long_inputs) if reader else None
    length = context_length if reader is None else reader.room(context_length)
    if side:
        fast.enable_truncation(length, direction=side)
    write_text(folder / "tokenizer.json", fast.to_str(pretty=True))
    end = template.end if template else END_OF_TEXT
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast" if reader else "GPT2Tokenizer",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        "bos_token": END_OF_TEXT,
        "eos_token": end,
        "unk_token": END_OF_TEXT,
        "additional_special_tokens": [name for name in names if name not in (END_OF_TEXT, end, PAD)],
    }
    if reader is not None:
        settings["pad_token"] = PAD
    if side:
        settings["truncation_side"] = side
    if template is not None:
        settings["chat_template"] = chat_template(template)
    write_json(folder / "tokenizer_config.json", settings)


def check_hf_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    probes: Sequence[str],
    reader: TextReader | None = None,
) -> None:
    """Read ``tokenizer.json`` with the library that transformers reads it with.

    Args:
        folder: holds it.
        tokenizer: what it must be equal to.
        context_length: the most tokens of a text.
        probes: texts without special tokens, which are recognised there and not here.
        reader: how a classifier reads a text; None for a language model.

    Raises:
        CheckpointError: a probe gives other ids.
    """
    theirs = HFTokenizer.from_file(str(folder / "tokenizer.json"))
    if reader is not None and reader.long_inputs in _SIDES:
        longer = " ".join(probes) * (1 + context_length // len(probes))
        wanted = reader.read(longer, tokenizer=tokenizer, context_length=context_length).ids.tolist()
        _compare(theirs, longer, wanted)
    theirs.no_truncation()
    end = [tokenizer.end_of_text] if reader and reader.end_token else []
    for text in probes:
        _compare(theirs, text, [*tokenizer.encode(text), *end])


def _compare(theirs: HFTokenizer, text: str, wanted: list[int]) -> None:
    if theirs.encode(text).ids != wanted:
        raise CheckpointError(f"tokenizer.json gives other tokens for {text[:20]!r} than the tokenizer")


def read_hf_tokenizer(folder: Path, *, vocab_size: int) -> Tokenizer:
    """The tokenizer in a folder that transformers wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or it is of another kind.
    """
    old, new = (folder / "vocab.json", folder / "merges.txt"), folder / "tokenizer.json"
    if new.is_file() and not old[0].is_file():
        vocabulary, merges = tokenizer_json(read_json_object(new, CheckpointError), path=new)
    elif any(path.is_file() for path in old):
        vocabulary, merges = read_json_object(old[0], CheckpointError), _read_merges(old[1])
    elif vocab_size == GPT2_VOCABULARY:
        log.warning("%s has no tokenizer; its %d tokens are taken for GPT-2's", folder, vocab_size)
        return gpt2_tokenizer()
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer, neither tokenizer.json nor vocab.json and merges.txt; save it there, too: "
            "tokenizer.save_pretrained(...)"
        )
    return tokenizer_of(folder.name, vocabulary=vocabulary, merges=merges)


def read_hf_reader(folder: Path, *, context_length: int) -> TextReader:
    """How the tokenizer of a classifier cuts and ends a text, where ``tokenizer.json`` says so; else the default.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / "tokenizer.json"
    settings = read_json_object(file, CheckpointError) if file.is_file() else {}
    cut, ends = settings.get("truncation"), settings.get("post_processor")
    if not isinstance(cut, dict) or type(cut.get("max_length")) is not int:
        return TextReader()
    end_token = isinstance(ends, dict) and ends.get("type") == "TemplateProcessing"
    sides: dict[object, LongInputs] = {"Left": "tail", "Right": "head"}
    keep = sides.get(cut.get("direction"), "head")
    return TextReader(keep, end_token, longest=cut["max_length"]).fit_context(context_length)


def _read_merges(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return [line for line in lines if line and not line.startswith("#version")]
