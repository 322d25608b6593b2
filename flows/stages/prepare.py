"""Data preparation: clean, deduplicate, split, check for leaks, train a tokenizer, write token shards and rows.

tokenizer/                       the tokenizer
corpus/train, corpus/val         token shards
classify/{train,val,test}.jsonl  rows text, label
instruct/{train,val,test}.jsonl  rows instruction, input, output
ledger.json                      what became of every document and row
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.hub import local_checkpoint
from flows.recipes import PrepareStage
from flows.sources import Row
from flows.stages.context import Context
from gptcore.data import (
    check_leakage,
    prepare_documents,
    prepare_rows,
    read_manifest,
    remove_leaks,
    split_by_hash,
    write_shards,
)
from gptcore.data.ledger import Ledger
from gptcore.errors import DataError
from gptcore.files import read_json_lines, write_json_lines
from gptcore.tokenizer import Tokenizer, gpt2_tokenizer, train_bpe
from gptcore.train import Progress

SPLITS = ("train", "val", "test")
_ROW_KEYS = {"classify": ("text", "label"), "instruct": ("instruction", "input", "output")}
_IDENTITY = {"classify": ("text",), "instruct": ("instruction", "input")}


def run(config: PrepareStage, context: Context) -> dict[str, Any]:
    """Prepare everything the source offers.

    Returns:
        Small values: the parts that exist, class labels, counts, leaks found, the tokenizer's digest.

    Raises:
        DataError: nothing usable is left.
    """
    ledger = Ledger()
    n_steps = 5

    def tell(step: int) -> None:
        context.on_progress(Progress(step, n_steps, {}))

    texts = context.folder / "texts"
    shutil.rmtree(texts, ignore_errors=True)
    _split_corpus(config, context, texts, ledger)
    tell(1)
    parts: dict[str, dict[str, Any]] = {}
    for part, rows in (
        ("classify", config.source.labelled(context.places)),
        ("instruct", config.source.instructions(context.places)),
    ):
        if rows is not None:
            parts[part] = _prepare_part(part, rows, config, context.folder / part, ledger)
        tell(2 if part == "classify" else 3)
    tokenizer = _tokenizer(config, context, texts, parts)
    tokenizer.save(context.folder / "tokenizer")
    tell(4)
    tokens = {}
    for split in ("train", "val"):
        folder = context.folder / "corpus" / split
        write_shards(_read_texts(texts / f"{split}.jsonl"), tokenizer=tokenizer, folder=folder)
        manifest = read_manifest(folder)
        tokens[split] = manifest.n_tokens
        ledger.count("tokenize", "tokens", n=manifest.n_tokens, split=split, unit="tokens")
    shutil.rmtree(texts)
    ledger.check()
    ledger.save(context.folder / "ledger.json")
    tell(5)
    return {
        "parts": sorted(parts),
        "tokenizer": tokenizer.name,
        "tokenizer_digest": tokenizer.digest,
        "vocab_size": tokenizer.vocab_size,
        "tokens": tokens,
        **parts,
        "metrics": {
            "data/train_tokens": float(tokens["train"]),
            "data/val_tokens": float(tokens["val"]),
            **{f"data/{part}_train_rows": float(facts["rows"]["train"]) for part, facts in parts.items()},
            **{f"data/{part}_leaks": float(facts["leaks"]) for part, facts in parts.items()},
        },
    }


def _split_corpus(config: PrepareStage, context: Context, texts: Path, ledger: Ledger) -> None:
    documents = prepare_documents(
        config.source.documents(context.places, ledger),
        min_chars=config.min_chars,
        ledger=ledger,
        stage="corpus: clean",
        near_duplicate_threshold=config.near_duplicates,
    )
    # near duplicates are gone by now, so the identity alone decides the split: the same for everything made from it
    split = split_by_hash(
        documents,
        text=lambda document: document.source,
        fractions=dict(zip(SPLITS, config.corpus_split, strict=True)),
        ledger=ledger,
        stage="corpus: split",
        near_duplicate_threshold=None,
    )
    texts.mkdir(parents=True)
    files = {name: (texts / f"{name}.jsonl").open("w", encoding="utf-8") for name in SPLITS}
    counts: Counter[str] = Counter()
    try:
        for name, document in split:
            files[name].write(json.dumps(document.text, ensure_ascii=False) + "\n")
            counts[name] += 1
    finally:
        for file in files.values():
            file.close()
    for name in ("train", "val"):
        if not counts[name]:
            raise DataError(
                f"the corpus gives no {name} document ({sum(counts.values())} in all); "
                "add text, or change prepare.corpus_split or prepare.min_chars"
            )


def _read_texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _prepare_part(part: str, rows: Iterable[Row], config: PrepareStage, folder: Path, ledger: Ledger) -> dict[str, Any]:
    identity = _IDENTITY[part]
    # questions about different things are alike in their words; only labelled texts have near duplicates that matter
    near = config.near_duplicates if part == "classify" else None
    clean = prepare_rows(rows, key=identity, ledger=ledger, stage=f"{part}: clean", near_duplicate_threshold=near)
    fractions = config.classify_split if part == "classify" else config.instruct_split
    split: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for name, row in split_by_hash(
        _balanced(clean, ledger) if part == "classify" and config.balance else clean,
        text=lambda row: row.get("document") or _join(row, identity),
        fractions=dict(zip(SPLITS, fractions, strict=True)),
        ledger=ledger,
        stage=f"{part}: split",
        near_duplicate_threshold=None,
        unit="rows",
    ):
        split[name].append(row)
    leaks = _remove_leaks(part, split, near, ledger)
    for name, kept in split.items():
        if not kept:
            raise DataError(f"no {name} row is left for {part}; the ledger in {folder.parent} says why")
        _write_rows(folder / f"{name}.jsonl", kept, keys=_ROW_KEYS[part])
    facts: dict[str, Any] = {"rows": {name: len(kept) for name, kept in split.items()}, "leaks": leaks}
    if part == "classify":
        facts["labels"] = _labels(split)
    return facts


def _labels(split: Mapping[str, list[Row]]) -> list[str]:
    """The classes of the training rows, sorted.

    Raises:
        DataError: there is only one, or a held-out row has another.
    """
    known = {row["label"] for row in split["train"]}
    for name in ("val", "test"):
        unseen = Counter(row["label"] for row in split[name] if row["label"] not in known)
        if unseen:
            label, n = unseen.most_common(1)[0]
            raise DataError(
                f"the label {label!r} was never seen in training: all its {n:,} rows fell into {name}; "
                "add rows of that label or leave it out"
            )
    if len(known) < 2:
        raise DataError(
            f"all {len(split['train']):,} training rows have the label {min(known)!r}; "
            "a classifier needs rows of two classes or more"
        )
    return sorted(known)


def _remove_leaks(part: str, split: dict[str, list[Row]], near: float | None, ledger: Ledger) -> int:
    """Take out of val and test what stands in train; the number of rows that leaked."""
    identity = _IDENTITY[part]
    train = [_join(row, identity) for row in split["train"]]
    leaks = 0
    for name in ("val", "test"):
        report = check_leakage(train, (_join(row, identity) for row in split[name]), near_duplicate_threshold=near)
        leaks += len(report.leaks)
        if report.leaks:
            kept = remove_leaks(
                split[name],
                train=train,
                text=lambda row: _join(row, identity),
                ledger=ledger,
                split=name,
                near_duplicate_threshold=near,
            )
            split[name] = list(kept)
    return leaks


def _balanced(rows: Iterable[Row], ledger: Ledger) -> list[Row]:
    """As many rows of each class as the smallest has; which ones, the hash of the text decides."""
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    smallest = min((len(group) for group in by_label.values()), default=0)
    kept = []
    for label, group in sorted(by_label.items()):
        ledger.count("classify: balance", "in", n=len(group))
        ledger.count("classify: balance", "kept", n=smallest)
        if len(group) > smallest:
            reason = f"class {label} is larger"
            ledger.count("classify: balance", "dropped", n=len(group) - smallest, reason=reason)
        kept += sorted(group, key=lambda row: _hash(row["text"]))[:smallest]
    return kept


def _tokenizer(config: PrepareStage, context: Context, texts: Path, parts: Mapping[str, Any]) -> Tokenizer:
    if config.tokenizer == "gpt2":
        tokenizer = gpt2_tokenizer()
    elif config.tokenizer == "bpe":
        tokenizer = train_bpe(_training_texts(context.folder, texts, parts), vocab_size=config.vocab_size)
    else:
        tokenizer = Tokenizer.load(local_checkpoint(config.tokenizer, context.places.cache) / "tokenizer")
    return tokenizer.with_special_tokens(config.special_tokens) if config.special_tokens else tokenizer


def _training_texts(folder: Path, texts: Path, parts: Mapping[str, Any]) -> Iterator[str]:
    yield from _read_texts(texts / "train.jsonl")
    for part in parts:
        for row in read_json_lines(folder / part / "train.jsonl"):
            yield _join(row, _ROW_KEYS[part])


def _write_rows(path: Path, rows: list[Row], *, keys: tuple[str, ...]) -> None:
    # sources come sorted by class or library; any first n of a file should be a fair sample of it
    mixed = sorted(rows, key=lambda row: _hash(_join(row, keys)))
    write_json_lines(path, ({key: row.get(key, "") for key in keys} for row in mixed))


def _join(row: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return "\n".join(row[key] for key in keys if row.get(key))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
