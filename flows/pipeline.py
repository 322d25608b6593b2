"""The whole chain as one flow: prepare, pretrain, classify, instruct, adapt, compress, evaluate, report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from flows.chain.engine import Chain
from flows.chain.request import Begun, OwnData, Preset, chain, configuration
from flows.launch.launch import Launch
from flows.launch.machines import leading
from flows.orchestrator.flow_run import prefect_tags, publish_markdown
from flows.orchestrator.running import present
from flows.report.page import summary_rows, write_report
from flows.stage_flows import FLOWS
from flows.stages.evaluate.result import EvaluateResult
from flows.stages.outcome import Outcome, PipelineReport
from flows.stages.unread import describe_unread
from flows.store import stage_key
from flows.tracking.logger import MlflowLogger
from flows.tracking.provenance import environment_tags
from flows.tracking.runs import pipeline_run


@flow(name="pipeline", description="Raw text to a pretrained, fine-tuned, adapted, compressed and evaluated model.")
def pipeline(
    preset: Preset = "demo",
    overrides: list[str] | None = None,
    data: OwnData | None = None,
    data_dir: Path | None = None,
    force: bool = False,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Run every stage that the data has rows for.

    Args:
        preset: demo, book or tiny.
        overrides: changes of the form ``pretrain.train.epochs=2``.
        data: own files instead of the preset's data.
        data_dir: folder with the catalogued data sets, instead of downloading them.
        force: make every stage anew.
        launch: in how many processes the trainings run.

    Returns:
        ``report`` (path), ``run_id`` (of the parent run), ``seconds``, ``stages`` (the headline of each), and
        ``left_out``: stages that the data has no rows for, and the option that gives some; ``unread``: sentences about
        rows that no stage reads.
    """
    overrides = overrides or []
    config = configuration(preset, overrides, data)
    stages = chain(config, data_dir=data_dir, launch=launch)
    key = stage_key("pipeline", version="1", config=config.to_dict(), inputs={})
    started, clock = datetime.now(UTC), time.monotonic()
    made: dict[str, str] = {}
    seconds: dict[str, float] = {}
    tags = {"gptworks.preset": preset, "gptworks.home": str(stages.settings.home), **prefect_tags()}
    name = f"pipeline-{preset}"
    with (
        present(stages.settings.home),
        leading(stages.launch),
        pipeline_run(stages.settings, name=name, key=key, params=config.to_dict(), tags=tags) as log,
    ):
        stages.check()
        for stage in FLOWS.values():
            begun = Begun(made=dict(made), run_id=log.local_id)
            summary = stage(preset, overrides, data, data_dir, force, launch, begun)
            if summary is not None:
                made[summary["stage"]], seconds[summary["stage"]] = summary["key"], summary["seconds"]
        stages.adopt(made)
        report = _report(stages, seconds, key, started, time.monotonic() - clock)
        path = write_report(report, stages.settings.home / "reports" / f"{preset}-{key[:8]}" / "report.html")
        _track(log, stages, report, path)
    rows = [row._asdict() for row in summary_rows(report)]
    publish_markdown("pipeline-summary", _markdown(rows, {s.stage: s.run_url for s in report.stages}))
    return {
        "report": str(path),
        "run_id": log.run_id,
        "seconds": report.seconds,
        "stages": rows,
        "left_out": stages.left_out,
        "unread": describe_unread(config.prepare.source.parts),
    }


def _report(stages: Chain, seconds: dict[str, float], key: str, started: datetime, total: float) -> PipelineReport:
    return PipelineReport(
        preset=stages.pipeline.preset,
        key=key,
        started=started,
        seconds=total,
        config=stages.pipeline.to_dict(),
        sources=stages.pipeline.prepare.source.digests(stages.places),
        stages=tuple(_with_seconds(outcome, seconds[name]) for name, outcome in stages.outcomes.items()),
        environment=environment_tags(),
        left_out=stages.left_out,
    )


def _with_seconds(outcome: Outcome, seconds: float) -> Outcome:
    """An outcome with the time that its flow took."""
    return replace(outcome, seconds=seconds, cached=seconds == 0.0)


def _track(log: MlflowLogger, stages: Chain, report: PipelineReport, path: Path) -> None:
    """Every stage's figures and links in the parent run, so that whole pipelines compare in one table."""
    for outcome in stages.outcomes.values():
        log.log_metrics({f"{outcome.stage}/{name}": value for name, value in outcome.result.metrics.items()})
        log.set_tags(
            {f"gptworks.run.{outcome.stage}": outcome.run_id or "", f"gptworks.key.{outcome.stage}": outcome.key}
        )
    evaluated = report.result(EvaluateResult)
    if evaluated is not None:
        log.set_tags({"gptworks.judge": f"{evaluated.judge['state']} {evaluated.judge['reason']}".strip()})
    log.log_metrics({"perf/seconds": report.seconds})
    # inside the UI a link need not know at which address it is shown
    links = {stage.stage: f"#/runs/{stage.run_id}" for stage in report.stages if stage.run_id}
    log.set_tags({"mlflow.note.content": _markdown([row._asdict() for row in summary_rows(report)], links)})
    log.log_artifact(path)


def _markdown(rows: list[dict[str, Any]], links: Mapping[str, str]) -> str:
    lines = ["| stage | metric | value | seconds |", "|---|---|---:|---:|"]
    for row in rows:
        value = row["metric_value"]
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        spent = "unchanged" if row["cached"] else f"{row['seconds']:.1f}"
        link = links.get(row["stage"])
        stage = f"[{row['stage']}]({link})" if link else row["stage"]
        lines.append(f"| {stage} | {row['metric_name']} | {shown} | {spent} |")
    return "\n".join(lines)
