"""Real data for the measured processes: token windows of Tiny Shakespeare, the book's SMS rows, its instructions.

The rows of a fine-tuning work are chosen once. Which of them ours trains on in the steps that are not counted is asked
of its own feed, and the peers get the same split, so that every implementation is timed over the same rows.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import ROOT, Options
from flows.sources.catalogue import fetch
from gptcore.data.corpus import write_shards
from gptcore.data.instructions import Instructions
from gptcore.data.labelled import LabelledText
from gptcore.data.readers import read_rows
from gptcore.data.rows import PaddedRows
from gptcore.data.templates import template_by_name
from gptcore.files import write_json, write_text
from gptcore.objectives import Classify, NextToken
from gptcore.objectives.base import Objective
from gptcore.tokenizer import Tokenizer, gpt2_tokenizer
from gptcore.train.feed import Feed

TOKENIZER, TRAIN, HELD_OUT, ROWS, PLAN = "tokenizer", "train", "held_out", "rows.jsonl", "plan.json"
LABELS = ("ham", "spam")
TEMPLATE = "alpaca"
_BOOK_SEED = 123
_BOOK_TRAIN_SHARE = 0.7


def real_file(name: str) -> Path:
    """The verified file of a catalogued data set: from ``GPTWORKS_SHARED_DATA``, or downloaded once."""
    shared = os.environ.get("GPTWORKS_SHARED_DATA")
    home = Path(os.environ.get("GPTWORKS_HOME") or ROOT / "var")
    return fetch(name, data_dir=Path(shared) if shared else None, cache=home / "cache")


def book_tokenizer(folder: Path) -> Tokenizer:
    """GPT-2's, written below ``folder``; its files are also looked for in the folder of real data."""
    shared = os.environ.get("GPTWORKS_SHARED_DATA")
    if shared:
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(Path(shared) / "tiktoken_cache"))
    tokenizer = gpt2_tokenizer()
    tokenizer.save(folder / TOKENIZER)
    return tokenizer


def prepare_windows(options: Options, folder: Path) -> None:
    """Tiny Shakespeare in GPT-2's tokens: ``tokenizer/`` and the shards ``train/``."""
    del options
    tokenizer = book_tokenizer(folder)
    text = real_file("tiny-shakespeare").read_text(encoding="utf-8")
    write_shards([text], tokenizer=tokenizer, folder=folder / TRAIN)


def prepare_messages(options: Options, folder: Path, *, batch_size: int) -> None:
    """Rows of the SMS training set as the book makes it, and the plan of the steps."""
    tokenizer = book_tokenizer(folder)
    train = book_messages(real_file("sms-spam"))
    encoded = tokenizer.encode_batch([row["text"] for row in train])
    rows = _chosen(train, options, batch_size=batch_size)
    source = classify_data(folder, rows, longest=max(map(len, encoded))).open()
    plan = _plan(source, Classify(), rows, options, batch_size=batch_size)
    peers = [{"tokens": tokenizer.encode(row["text"]), "class": LABELS.index(row["label"])} for row in rows]
    write_json(folder / PLAN, plan | {"longest": max(map(len, encoded)), "rows": peers})


def book_messages(path: Path) -> list[dict[str, str]]:
    """The training rows of chapter 6: balanced by drawing as many ham as there is spam, shuffled, the first 70%.

    Read as the book reads them (pandas takes quotes for quoting), so that its 1,045 rows and longest of 120 tokens come
    out: https://github.com/rasbt/LLMs-from-scratch, ch06.
    """
    import pandas as pd  # the measured process takes names from here, and would be 60 MB larger than its peers'

    frame = pd.read_csv(path, sep="\t", header=None, names=["label", "text"])
    spam = frame[frame["label"] == "spam"]
    ham = frame[frame["label"] == "ham"].sample(len(spam), random_state=_BOOK_SEED)
    mixed = pd.concat([ham, spam]).sample(frac=1, random_state=_BOOK_SEED)
    train = mixed.iloc[: int(len(mixed) * _BOOK_TRAIN_SHARE)]
    return [{"text": str(text), "label": str(label)} for label, text in train.itertuples(index=False)]


def classify_data(folder: Path, rows: Sequence[dict[str, str]] | None = None, *, longest: int) -> LabelledText:
    """The prepared messages as ours reads them; with ``rows``, written first."""
    if rows is not None:
        _write_rows(folder / ROWS, rows)
    # one place more than the longest text: ours ends each row with an end token
    return LabelledText(folder / ROWS, tokenizer=folder / TOKENIZER, labels=LABELS, context_length=longest + 1)


def prepare_instructions(options: Options, folder: Path, *, batch_size: int) -> None:
    """Rows of the book's 1,100 instructions, and the plan of the steps."""
    tokenizer = book_tokenizer(folder)
    every = list(read_rows(real_file("book-instructions"), required=("instruction", "output"), optional=("input",)))
    rows = _chosen(every, options, batch_size=batch_size)
    source = instruction_data(folder, rows).open()
    plan = _plan(source, NextToken(), rows, options, batch_size=batch_size)
    write_json(folder / PLAN, plan | {"rows": [_pair(row, tokenizer) for row in rows]})
    _write_hugging_face(tokenizer, folder / "hf")


def instruction_data(folder: Path, rows: Sequence[dict[str, str]] | None = None) -> Instructions:
    """The prepared instructions as ours reads them; with ``rows``, written first."""
    if rows is not None:
        _write_rows(folder / ROWS, rows)
    return Instructions(folder / ROWS, tokenizer=folder / TOKENIZER, template=TEMPLATE, context_length=1024)


def read_plan(folder: Path) -> dict[str, Any]:
    """What ``prepare_messages`` or ``prepare_instructions`` wrote.

    ``warmup`` and ``counted`` are numbers of ``rows``; ``items`` are the counted items of each of ours' steps.
    """
    plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    return plan


def _chosen(rows: Sequence[dict[str, str]], options: Options, *, batch_size: int) -> list[dict[str, str]]:
    """As many rows as the steps take, without replacement; all whole batches if there are not as many."""
    wanted = (options.warmup + options.steps) * batch_size
    n = min(wanted, len(rows) // batch_size * batch_size)
    order = np.random.default_rng(options.seed).permutation(len(rows))[:n]
    return [rows[i] for i in order]


def _plan(
    source: PaddedRows, objective: Objective, rows: Sequence[dict[str, str]], options: Options, *, batch_size: int
) -> dict[str, Any]:
    if source.n_samples != len(rows):
        raise RuntimeError(f"{len(rows) - source.n_samples} of {len(rows)} rows were dropped: the rows would not match")
    feed = Feed(source, objective, batch_size=batch_size, seed=options.seed)
    steps = [feed.indices(step).tolist() for step in range(feed.steps_per_epoch)]
    feed.close()
    return {
        "warmup": list(itertools.chain(*steps[: options.warmup])),
        "counted": list(itertools.chain(*steps[options.warmup :])),
        "items": [sum(objective.counts(source.batch(step)).values()) for step in steps[options.warmup :]],
    }


def _pair(row: dict[str, str], tokenizer: Tokenizer) -> dict[str, Any]:
    template = template_by_name(TEMPLATE)
    return {
        "prompt": template.encode_prompt(row["instruction"], row["input"], tokenizer=tokenizer),
        "response": template.encode_response(row["output"], tokenizer=tokenizer),
    }


def _write_hugging_face(tokenizer: Tokenizer, folder: Path) -> None:
    """The files from which transformers builds the same tokenizer."""
    from gptcore.export.vocabulary import merges_of, vocabulary_of

    write_text(folder / "vocab.json", json.dumps(vocabulary_of(tokenizer), ensure_ascii=False))
    write_text(folder / "merges.txt", "#version: 0.2\n" + "\n".join(merges_of(tokenizer)) + "\n")


def _write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
