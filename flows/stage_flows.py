"""One Prefect flow per stage. Each makes what it needs first, unless that exists.

Between flows travel keys and small values: ``begun`` names the outputs that earlier flows of a pipeline have made.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefect import Flow, flow

from flows.chain.request import Begun, OwnData, Preset, chain, configuration
from flows.launch.launch import Launch
from flows.launch.machines import leading
from flows.orchestrator.flow_run import publish_link
from flows.orchestrator.running import present
from flows.stages.every import STAGES
from flows.stages.registry import Stage

Summary = dict[str, Any]
"""stage, key, path, seconds, cached, run_id of one stage's output."""


def _stage_flow(stage: str, description: str) -> Flow[..., Summary | None]:
    """The flow of one stage; all take the same parameters, which the server checks before a run is made."""

    def run(
        preset: Preset = "demo",
        overrides: list[str] | None = None,
        data: OwnData | None = None,
        data_dir: Path | None = None,
        force: bool = False,
        launch: Launch | None = None,
        begun: Begun | None = None,
    ) -> Summary | None:
        stages = chain(configuration(preset, overrides or [], data), data_dir=data_dir, launch=launch, begun=begun)
        with present(stages.settings.home), nullcontext() if begun else leading(stages.launch):
            outcome = stages.ensure(stage, force=force)
        if outcome is None:
            return None
        if outcome.cached:  # one that ran has shown its link while it did
            publish_link(stage, outcome.run_url)
        return {
            "stage": stage,
            "key": outcome.key,
            "path": str(outcome.path),
            "seconds": outcome.seconds,
            "cached": outcome.cached,
            "run_id": outcome.run_id,
        }

    return flow(name=stage, description=description)(run)


FLOWS: dict[str, Flow[..., Summary | None]] = {
    stage.name: _stage_flow(stage.name, stage.sentence) for stage in STAGES.values()
}
"""The flow of every stage, by the stage's name."""
# an entry point of a deployment is an attribute of a module
globals().update({name.replace("-", "_"): each for name, each in FLOWS.items()})

_BEGIN, _END = "written by `python -m flows.stage_flows`.\n", "  # The stages end here.\n"


def with_deployments(text: str) -> str:
    """The text of prefect.yaml with one deployment of every stage between its two marks."""
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return head + _BEGIN + "".join(map(_deployment, STAGES.values())) + _END + tail


def _deployment(stage: Stage) -> str:
    return f"""  - name: demo
    entrypoint: flows.stage_flows.{stage.name.replace("-", "_")}
    description: {stage.sentence}
    tags: [gptworks, demo, stage]
    work_pool: *pool
    parameters: *demo

"""


if __name__ == "__main__":
    described = Path(__file__).parents[1] / "prefect.yaml"
    described.write_text(with_deployments(described.read_text(encoding="utf-8")), encoding="utf-8")
