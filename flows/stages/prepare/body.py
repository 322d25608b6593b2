"""Data preparation: clean, deduplicate, split, check for leaks, train a tokenizer, write token shards and rows.

tokenizer/                       the tokenizer
corpus/train, corpus/val         token shards
<part>/{train,val,test}.jsonl    rows of a part of the data, with its keys: classify, instruct
ledger.json                      what became of every document and row
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.launch.fan_out import fan_out
from flows.sources.base import Row
from flows.sources.hub import local_checkpoint
from flows.sources.parts import Part, find_part
from flows.stages.context import Context, Inputs
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.recipe import PrepareStage
from flows.stages.prepare.result import PartFacts, PrepareResult
from gptcore.data import (
    Document,
    TrainingTexts,
    prepare_documents,
    prepare_rows,
    read_manifest,
    remove_leaks,
    split_by_hash,
    write_shards,
)
from gptcore.data.batches import Spread
from gptcore.data.ledger import Ledger
from gptcore.errors import DataError
from gptcore.files import disk_errors, read_json_lines, write_json_lines
from gptcore.tokenizer import Tokenizer, gpt2_tokenizer, train_bpe
from gptcore.train import Progress

SPLITS = ("train", "val", "test")


def run(pipeline: Pipeline, inputs: Inputs, context: Context) -> PrepareResult:
    """Prepare everything the source offers; normal forms, signatures and tokens by the workers of ``context.launch``.

    Raises:
        ConfigError: the source has rows of a part that is not registered.
        DataError: nothing usable is left, or a row lacks a key.
    """
    del inputs
    with fan_out(context.launch) as spread:
        return _run(pipeline.prepare, context, spread)


def _run(config: PrepareStage, context: Context, spread: Spread) -> PrepareResult:
    ledger = Ledger()
    offered = [find_part(name) for name in config.source.parts]
    n_steps = 3 + len(offered)

    def report_step(step: int) -> None:
        context.on_progress(Progress(step, n_steps, {}))

    texts = context.folder / "texts"
    shutil.rmtree(texts, ignore_errors=True)
    texts.mkdir(parents=True)
    documents = config.source.documents(context.places, ledger)
    if documents is not None:
        _split_corpus(documents, config, texts, ledger, spread)
    report_step(1)
    parts: dict[str, PartFacts] = {}
    for step, part in enumerate(offered, 2):
        rows = config.source.rows(part, context.places)
        if rows is not None:
            parts[part.name] = _prepare_part(part, rows, config, context.folder / part.name, ledger, spread)
        report_step(step)
    if documents is None:
        _rows_as_corpus(config, context.folder, parts, texts, ledger, spread)
    tokenizer = _tokenizer(config, context, texts, parts, ledger)
    tokenizer.save(context.folder / "tokenizer")
    report_step(n_steps - 1)
    tokens = {}
    for split in ("train", "val"):
        folder = context.folder / "corpus" / split
        write_shards(_read_texts(texts / f"{split}.jsonl"), tokenizer=tokenizer, folder=folder, spread=spread)
        manifest = read_manifest(folder)
        tokens[split] = manifest.n_tokens
        ledger.count("tokenize", "tokens", n=manifest.n_tokens, split=split, unit="tokens")
    shutil.rmtree(texts)
    ledger.check()
    ledger.save(context.folder / "ledger.json")
    report_step(n_steps)
    return PrepareResult(
        tokenizer=tokenizer.name,
        tokenizer_digest=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        tokens=tokens,
        parts=parts,
        metrics={
            "data/train_tokens": float(tokens["train"]),
            "data/val_tokens": float(tokens["val"]),
            **{f"data/{part}_train_rows": float(facts.rows["train"]) for part, facts in parts.items()},
            **{f"data/{part}_leaks": float(facts.leaks) for part, facts in parts.items()},
        },
    )


def _split_corpus(
    source: Iterator[Document], config: PrepareStage, texts: Path, ledger: Ledger, spread: Spread
) -> None:
    documents = prepare_documents(
        source,
        min_chars=config.min_chars,
        ledger=ledger,
        stage="corpus: clean",
        near_duplicate_threshold=config.near_duplicates,
        spread=spread,
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
    _write_texts(texts, ((name, document.text) for name, document in split))
    for name in ("train", "val"):
        if not ledger.total("kept", stage="corpus: split", split=name):
            raise DataError(
                f"the corpus gives no {name} document: {_fate(ledger, 'corpus')}; add text, or change "
                "prepare.corpus_split, prepare.min_chars or prepare.near_duplicates"
            )


def _rows_as_corpus(
    config: PrepareStage, folder: Path, parts: Iterable[str], texts: Path, ledger: Ledger, spread: Spread
) -> None:
    """The rows' own texts, but not those of the tests: no base model has seen what it is asked in the end."""

    def documents() -> Iterator[Document]:
        for part in map(find_part, parts):
            for name in ("train", "val"):
                for row in read_json_lines(folder / part.name / f"{name}.jsonl"):
                    text = _join(row, part.content)
                    yield Document(text, f"corpus\n{text}")  # a split of its own: the text's hash put it here

    train, val, _ = config.corpus_split
    shares = (train / (train + val), 1 - train / (train + val), 0.0)
    _split_corpus(documents(), replace(config, min_chars=1, corpus_split=shares), texts, ledger, spread)


def _write_texts(folder: Path, texts: Iterable[tuple[str, str]]) -> None:
    """One JSON text per line, in one file for each split."""
    with ExitStack() as stack:
        stack.enter_context(disk_errors(folder))
        files = {name: stack.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8")) for name in SPLITS}
        for name, text in texts:
            files[name].write(json.dumps(text, ensure_ascii=False) + "\n")


def _fate(ledger: Ledger, part: str) -> str:
    """What became of a part of the data, in one line."""
    dropped = Counter[str]()
    for row in ledger.to_rows():
        if row["outcome"] == "dropped" and row["stage"].startswith((f"{part}:", "leakage")):
            dropped[row["reason"]] += row["n"]
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in dropped.most_common()) or "none"
    return f"of {ledger.total('in', stage=f'{part}: clean'):,} that were read these were dropped: {reasons}"


def _read_texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _prepare_part(
    part: Part, rows: Iterable[Row], config: PrepareStage, folder: Path, ledger: Ledger, spread: Spread
) -> PartFacts:
    near = config.near_duplicates
    clean = prepare_rows(
        _complete(part, rows, type(config.source).__name__),
        key=part.identity,
        content=part.content,
        ledger=ledger,
        stage=f"{part.name}: clean",
        near_duplicate_threshold=near,
        spread=spread,
    )
    split: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for name, row in split_by_hash(
        _balance(part, clean, ledger) if part.label and config.balance else clean,
        text=lambda row: row.get("document") or _join(row, part.identity),
        fractions=dict(zip(SPLITS, config.split(part.name), strict=True)),
        ledger=ledger,
        stage=f"{part.name}: split",
        near_duplicate_threshold=None,
        unit="rows",
    ):
        split[name].append(row)
    leaks = _remove_leaks(part, split, near, ledger, spread)
    for name, kept in split.items():
        if not kept:
            raise DataError(
                f"no {name} row is left for {part.name}: {_fate(ledger, part.name)}; add rows, or change "
                f"prepare.{config.split_setting(part.name)} or prepare.near_duplicates"
            )
        _write_rows(folder / f"{name}.jsonl", kept, keys=part.keys)
    return PartFacts(
        rows={name: len(kept) for name, kept in split.items()},
        train_chars=sum(len(_join(row, part.content)) for row in split["train"]),
        leaks=leaks,
        labels=tuple(_labels(split, part.label)) if part.label else (),
    )


def _complete(part: Part, rows: Iterable[Row], source: str) -> Iterator[Row]:
    """The rows with empty texts for what they may lack."""
    for number, row in enumerate(rows, 1):
        missing = [key for key in part.required if not isinstance(row.get(key), str)]
        if missing:
            found = ", ".join(map(repr, row)) or "none"
            raise DataError(
                f"{source}, row {number} of {part.name}: expected a text under {missing[0]!r}, got the keys {found}"
            )
        yield dict.fromkeys(part.optional, "") | row


def _labels(split: Mapping[str, list[Row]], key: str) -> list[str]:
    """The classes of the training rows, sorted.

    Raises:
        DataError: there is only one, or a held-out row has another.
    """
    known = {row[key] for row in split["train"]}
    for name in ("val", "test"):
        unseen = Counter(row[key] for row in split[name] if row[key] not in known)
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


def _remove_leaks(part: Part, split: dict[str, list[Row]], near: float | None, ledger: Ledger, spread: Spread) -> int:
    """Take out of val and test what stands in train; the number of rows that leaked."""
    leaks = 0
    for keys, threshold in ((part.identity, None), (part.content, near)):
        train = (_join(row, keys) for row in split["train"])
        seen = TrainingTexts(train, near_duplicate_threshold=threshold, spread=spread)
        for name in ("val", "test"):
            report = seen.check(_join(row, keys) for row in split[name])
            leaks += len(report.leaks)
            if report.leaks:
                split[name] = remove_leaks(split[name], report, ledger=ledger, split=name)
    return leaks


def _balance(part: Part, rows: Iterable[Row], ledger: Ledger) -> list[Row]:
    """As many rows of each class as the smallest has; which ones, the hash of what is theirs decides."""
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row[part.label], []).append(row)
    smallest = min((len(group) for group in by_label.values()), default=0)
    kept, stage = [], f"{part.name}: balance"
    for label, group in sorted(by_label.items()):
        ledger.count(stage, "in", n=len(group))
        ledger.count(stage, "kept", n=smallest)
        if len(group) > smallest:
            reason = f"class {label} is larger"
            ledger.count(stage, "dropped", n=len(group) - smallest, reason=reason)
        kept += sorted(group, key=lambda row: _hash(_join(row, part.identity)))[:smallest]
    return kept


def _tokenizer(
    config: PrepareStage, context: Context, texts: Path, parts: Mapping[str, Any], ledger: Ledger
) -> Tokenizer:
    if config.tokenizer == "gpt2":
        tokenizer = gpt2_tokenizer()
    elif config.tokenizer == "bpe":
        training = _training_texts(config, context.folder, texts, parts, ledger)
        tokenizer = train_bpe(training, vocab_size=config.vocab_size)
    else:
        tokenizer = Tokenizer.load(local_checkpoint(config.tokenizer, context.places.cache) / "tokenizer")
    return tokenizer.with_special_tokens(config.special_tokens) if config.special_tokens else tokenizer


def _training_texts(
    config: PrepareStage, folder: Path, texts: Path, parts: Iterable[str], ledger: Ledger
) -> Iterator[str]:
    """What the tokenizer learns from: the rows, and of a large corpus a part, since its words are kept in memory."""
    corpus = texts / "train.jsonl"
    share = config.tokenizer_bytes / max(1, corpus.stat().st_size)
    for text in _read_texts(corpus):
        ledger.count("tokenizer", "in", unit="documents")
        if share < 1 and int(_hash(text)[:8], 16) >= share * 2**32:
            ledger.count("tokenizer", "dropped", reason="beyond its sample of the corpus", unit="documents")
            continue
        ledger.count("tokenizer", "kept", unit="documents")
        yield text
    for part in map(find_part, parts):
        for row in read_json_lines(folder / part.name / "train.jsonl"):
            yield _join(row, part.keys)


def _write_rows(path: Path, rows: list[Row], *, keys: tuple[str, ...]) -> None:
    # sources come sorted by class or library; any first n of a file should be a fair sample of it
    mixed = sorted(rows, key=lambda row: _hash(_join(row, keys)))
    write_json_lines(path, ({key: row.get(key, "") for key in keys} for row in mixed))


def _join(row: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return "\n".join(row[key] for key in keys if row.get(key))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
