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
            publish_link(stage, stages.run_url(outcome))
        return {
            "stage": stage,
            "key": outcome.key,
            "path": str(outcome.path),
            "seconds": outcome.seconds,
            "cached": outcome.cached,
            "run_id": outcome.run_id,
        }

    return flow(name=stage, description=description)(run)


prepare_data = _stage_flow(
    "prepare-data",
    "Clean, deduplicate and split texts and rows; train a tokenizer; write token shards and a ledger.",
)
pretrain = _stage_flow("pretrain", "Train a base model on the corpus.")
finetune_classifier = _stage_flow(
    "finetune-classifier", "Fine-tune the base model for classification, with a TF-IDF baseline beside it."
)
finetune_instruct = _stage_flow(
    "finetune-instruct", "Fine-tune the base model for instructions and answer the held-out ones."
)
lora = _stage_flow("lora", "Adapt the base model with LoRA for each task that has data.")
compress = _stage_flow("compress", "Compress the instruction-tuned model by several methods, held against a gate.")
evaluate = _stage_flow("evaluate", "Score the held-out answers by overlap and, where one answers, by the judge.")
