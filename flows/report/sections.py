"""What the report page shows, gathered from the stages' small values and the files in their folders.

Every part is None where its stage was left out, so that the page can say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from flows.figures.svg import MAX_POINTS, confusion_svg, loss_svg
from flows.sources.catalogue import DATA_SETS
from flows.sources.parts import find_part, list_parts
from flows.stages.compress.figures import tradeoff_svg
from flows.stages.judge.page import judge_part
from flows.stages.registry import STAGES
from flows.stages.unread import describe_unread
from flows.tracking.logger import flatten
from gptcore.data.ledger import Ledger, LedgerRow
from gptcore.files import read_json_lines
from gptcore.train.logger import read_history

if TYPE_CHECKING:
    from flows.stages.outcome import PipelineReport, StageReport

N_RESPONSES = 12
"""Responses shown in full."""
N_SAMPLES = 5
"""Moments of the training from which samples are shown, for each prompt."""
_CURVES = (
    ("pretrain", "run", "Pretraining"),
    ("finetune-classifier", "run", "Classification"),
    ("finetune-instruct", "run", "Instructions"),
    ("lora", "classify", "LoRA, classification"),
    ("lora", "instruct", "LoRA, instructions"),
)
_PARTS = {"finetune-classifier": "classify", "finetune-instruct": "instruct"}
"""Which rows a full fine-tuning is made with."""
_COMPARED = (
    ("classify", "finetune-classifier", "test/accuracy", "accuracy", True),
    ("classify", "finetune-classifier", "test/macro_f1", "macro-F1", True),
    ("classify", "finetune-classifier", "val/loss", "held-out loss", False),
    ("instruct", "finetune-instruct", "val/loss", "held-out loss", False),
    ("instruct", "finetune-instruct", "val/perplexity", "held-out perplexity", False),
)


def collect(report: PipelineReport) -> dict[str, Any]:
    """Every part of the page by its name in the template.

    Raises:
        DataError: a file that a stage left cannot be read.
    """
    return {
        "absent": {name: reason for name in STAGES if (reason := _absence(report, name))},
        "source_kind": report.config.get("prepare", {}).get("source", {}).get("kind", ""),
        "sources": [_source(name, digest) for name, digest in sorted(report.sources.items())],
        "prepared": _result(report, "prepare-data"),
        "part_titles": {part.name: part.title for part in list_parts()},
        "unread": describe_unread((_result(report, "prepare-data") or {}).get("parts", ())),
        "model": (_result(report, "pretrain") or {}).get("model"),
        "curves": _curves(report),
        "max_points": MAX_POINTS,
        "classified": _classified(report),
        "samples": _samples(report),
        "responses": _responses(report),
        "compressed": _compressed(report),
        "equivalence": _equivalence(report),
        "evaluated": _result(report, "evaluate"),
        "overlap": _overlap(report),
        "judged": judge_part(report.stage("evaluate")),
        "adapted": _adapted(report),
        "ledger": [part for stage in report.stages for part in _ledgers(stage)],
        "config": flatten(report.config),
    }


def _result(report: PipelineReport, name: str) -> dict[str, Any] | None:
    stage = report.stage(name)
    return stage.result if stage else None


def _equivalence(report: PipelineReport) -> list[dict[str, Any]]:
    """Forms of the run's model against itself, those that must be equal first."""
    rows = [row for name in ("compress", "lora") for row in (_result(report, name) or {}).get("equivalence", ())]
    return sorted(rows, key=lambda row: not row["must_equal"])


def _absence(report: PipelineReport, name: str) -> str | None:
    if report.stage(name):
        return None
    prepared, parts = _result(report, "prepare-data"), STAGES[name].parts
    if prepared and parts and not set(parts) & set(prepared.get("parts", ())):
        return f"the data has no {' and no '.join(find_part(part).title for part in parts)}"
    return "it was not part of this run"


def _source(name: str, digest: str) -> dict[str, str]:
    known = DATA_SETS.get(name)
    # the licence belongs to the catalogued bytes, not to whatever else may carry the name
    if known is None or known.sha256 != digest:
        return {"name": name, "digest": digest, "licence": "", "page": ""}
    return {"name": name, "digest": digest, "licence": known.licence, "page": known.page}


def _curves(report: PipelineReport) -> list[dict[str, Any]]:
    curves = []
    for name, folder, title in _CURVES:
        stage = report.stage(name)
        history = read_history(stage.folder / folder / "metrics.jsonl") if stage else []
        svg = loss_svg(history, name=f"loss-{name}-{folder}")
        if svg:
            held_out = [line["val/loss"] for line in history if line.get("val/loss") is not None]
            n_points = sum("train/loss" in line for line in history)
            last = held_out[-1] if held_out else None
            curves.append({"title": title, "svg": Markup(svg), "last": last, "thinned": n_points > MAX_POINTS})
    return curves


def _classified(report: PipelineReport) -> dict[str, Any] | None:
    result = _result(report, "finetune-classifier")
    if result is None:
        return None
    confusion, labels = result["confusion"], list(result["labels"])
    svg = confusion_svg(confusion, labels, name="confusion")
    mistakes = [
        {"true": labels[i], "told": labels[j], "n": cell, "share": cell / sum(row)}
        for i, row in enumerate(confusion)
        for j, cell in enumerate(row)
        if i != j and cell
    ]
    return {
        "metrics": result["metrics"],
        "n_classes": len(labels),
        "n_rows": sum(map(sum, confusion)),
        "svg": Markup(svg) if svg else None,
        "mistakes": sorted(mistakes, key=lambda mistake: -int(mistake["n"]))[: 6 if svg else 20],
    }


def _samples(report: PipelineReport) -> list[dict[str, Any]]:
    result = _result(report, "pretrain") or {}
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for line in result.get("samples", ()):
        by_prompt.setdefault(line["prompt"], []).append(line)
    return [
        {"prompt": prompt, "n": len(lines), "lines": _spread(lines, N_SAMPLES)} for prompt, lines in by_prompt.items()
    ]


def _spread(lines: Sequence[Any], n: int) -> list[Any]:
    """``n`` of them at even distances, the first and the last among them."""
    if len(lines) <= n:
        return list(lines)
    return [lines[round(i * (len(lines) - 1) / (n - 1))] for i in range(n)]


def _responses(report: PipelineReport) -> dict[str, Any] | None:
    """The best and the worst by ROUGE-L where there are scores, otherwise the first."""
    instruct, evaluate = report.stage("finetune-instruct"), report.stage("evaluate")
    if instruct is None:
        return None
    if evaluate is not None and (evaluate.folder / "scores.jsonl").is_file():
        scored = read_json_lines(evaluate.folder / "scores.jsonl")
        ranked = sorted(scored, key=lambda row: -float(row["rouge_l"]))
        half = N_RESPONSES // 2
        groups = (
            [("Best by ROUGE-L", ranked[:half]), ("Worst by ROUGE-L", ranked[-half:])]
            if len(ranked) > N_RESPONSES
            else [("By ROUGE-L, best first", ranked)]
        )
        return {"n": len(scored), "groups": groups}
    path = instruct.folder / "responses.jsonl"
    rows = read_json_lines(path) if path.is_file() else []
    plain = [{"input": "", **row, "reference": row["output"], "judge_rationale": ""} for row in rows[:N_RESPONSES]]
    return {"n": len(rows), "groups": [("The first", plain)] if plain else []}


def _compressed(report: PipelineReport) -> dict[str, Any] | None:
    result = _result(report, "compress")
    return result and {**result, "svg": Markup(tradeoff_svg(result["variants"], name="tradeoff"))}


def _overlap(report: PipelineReport) -> list[dict[str, Any]]:
    metrics = (_result(report, "evaluate") or {}).get("metrics", {})
    return [
        {"model": model, **{name: metrics.get(f"{prefix}test/{name}") for name in _OVERLAP}}
        for model, prefix in (("base", "base/"), ("fine-tuned", ""), ("LoRA", "lora/"))
        if f"{prefix}test/rouge_l" in metrics
    ]


_OVERLAP = ("rouge_l", "exact_match", "chrf", "empty")


def _adapted(report: PipelineReport) -> dict[str, Any] | None:
    lora = report.stage("lora")
    if lora is None:
        return None
    tasks = lora.result.get("tasks", {})
    compared = []
    for task, full_stage, metric, title, is_share in _COMPARED:
        full = (_result(report, full_stage) or {}).get("metrics", {})
        adapted = tasks.get(task, {}).get("metrics", {})
        if metric in adapted:
            values = {"lora": adapted[metric], "full": full.get(metric), "is_share": is_share}
            compared.append({"task": task, "title": title, **values})
    scores = (_result(report, "evaluate") or {}).get("metrics", {})
    if "lora/test/rouge_l" in scores:
        values = {"lora": scores["lora/test/rouge_l"], "full": scores.get("test/rouge_l"), "is_share": False}
        compared.append({"task": "instruct", "title": "ROUGE-L", **values})
    sizes = []
    for task, facts in tasks.items():
        stage = report.stage(next(name for name, part in _PARTS.items() if part == task))
        sizes.append(
            {
                "task": task,
                "trained_share": facts.get("trained_share"),
                "adapter": _weights(lora.folder / facts["adapter"]) if facts.get("adapter") else None,
                "full": _weights(stage.folder / stage.result["checkpoint"]) if stage else None,
            }
        )
    return {"compared": compared, "sizes": sizes}


def _weights(folder: Path) -> int | None:
    """Bytes of the tensors in a folder; None if there are none."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None


def _ledgers(stage: StageReport) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage.stage,
            "folder": str(path.parent.relative_to(stage.folder)) if path.parent != stage.folder else "",
            "lines": _pivot(Ledger.load(path).to_rows()),
        }
        for path in sorted(stage.folder.rglob("ledger.json"))
    ]


def _pivot(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    """One line per step, split and unit: what came in, stayed, went and was cut, and why."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["stage"], row["split"], row["unit"])
        line = lines.setdefault(key, {"step": key[0], "split": key[1], "unit": key[2], "reasons": []})
        line[row["outcome"]] = line.get(row["outcome"], 0) + row["n"]
        if row["reason"] and row["n"]:
            line["reasons"].append(f"{row['reason'].replace('_', ' ')} {row['n']:,}")
    return list(lines.values())
