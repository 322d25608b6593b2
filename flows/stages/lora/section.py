"""LoRA on the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flows.stages.classify.result import ClassifyResult
from flows.stages.instruct.result import InstructResult
from flows.stages.lora.result import Adapted, LoraResult
from flows.stages.outcome import Outcome, PipelineReport
from flows.stages.registry import Headline
from flows.stages.result import first_metric

_FULL: Final[dict[str, type[ClassifyResult] | type[InstructResult]]] = {
    "classify": ClassifyResult,
    "instruct": InstructResult,
}
"""What full fine-tuning hands on, by the rows that it is made with."""
_COMPARED: Final = (
    ("classify", "finetune-classifier", "test/accuracy", "accuracy", True),
    ("classify", "finetune-classifier", "test/macro_f1", "macro-F1", True),
    ("classify", "finetune-classifier", "val/loss", "held-out loss", False),
    ("instruct", "finetune-instruct", "val/loss", "held-out loss", False),
    ("instruct", "finetune-instruct", "val/perplexity", "held-out perplexity", False),
)


def section(report: PipelineReport) -> dict[str, Any] | None:
    """Adapted and full models beside each other, and what each weighs."""
    made, result = report.stage(LoraResult.stage), report.result(LoraResult)
    if made is None or result is None:
        return None
    return {
        "compared": _compare(result.tasks, report),
        "sizes": [_sizes(task, adapted, made, report) for task, adapted in result.tasks.items()],
    }


def _compare(tasks: Mapping[str, Adapted], report: PipelineReport) -> list[dict[str, Any]]:
    compared = []
    for task, full_stage, metric, title, is_share in _COMPARED:
        full, adapted = _metrics(report, full_stage), tasks[task].metrics if task in tasks else {}
        if metric in adapted:
            values = {"lora": adapted[metric], "full": full.get(metric), "is_share": is_share}
            compared.append({"task": task, "title": title, **values})
    scores = _metrics(report, "evaluate")
    if "lora/test/rouge_l" in scores:
        values = {"lora": scores["lora/test/rouge_l"], "full": scores.get("test/rouge_l"), "is_share": False}
        compared.append({"task": "instruct", "title": "ROUGE-L", **values})
    return compared


def _metrics(report: PipelineReport, name: str) -> dict[str, float]:
    stage = report.stage(name)
    return stage.result.metrics if stage else {}


def _sizes(task: str, adapted: Adapted, made: Outcome, report: PipelineReport) -> dict[str, Any]:
    full, result = report.stage(_FULL[task].stage), report.result(_FULL[task])
    return {
        "task": task,
        "trained_share": adapted.trained_share,
        "adapter": _weights(made.path / adapted.adapter),
        "full": _weights(full.path / result.checkpoint) if full and result else None,
    }


def _weights(folder: Path) -> int | None:
    """Bytes of the tensors in a folder; None if there are none."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None


def headline(report: PipelineReport) -> Headline | None:
    """The accuracy of the adapted classifier, or the held-out loss of the instructed model."""
    return first_metric(report.result(LoraResult), "classify/test/accuracy", "instruct/val/loss")
