"""What a finished chain is registered as: a version whose tags say what made it."""

from __future__ import annotations

import json
from dataclasses import asdict

from flows.chain.engine import Chain
from flows.gate.hold import variants_of
from flows.recipes.grown import Grown
from flows.registry.versions import KEY, ModelRegistry, RegistryError, Version
from flows.retraining.look import SETTINGS, model_key, settings_digest, stage_keys
from flows.retraining.situation import Why
from flows.stages.compress.result import CompressResult
from flows.stages.every import STAGES
from flows.stages.registry import Role
from flows.stages.training import CHECKPOINT
from flows.tracking.provenance import environment_tags
from flows.tracking.runs import PREFIX, connect

_MAIN: tuple[Role, ...] = ("instruct", "classifier", "base")
"""The model that a version is: the first that there is."""


def register(chain: Chain, registry: ModelRegistry, *, because: Why, pipeline_run_id: str) -> Version:
    """Register what a chain has made, as the challenger; a stage that failed its own gate may be missing.

    ``pipeline_run_id`` is the MLflow run of the chain; empty if it ended early.

    Raises:
        RegistryError: the chain trained no model.
    """
    keys = stage_keys(chain)
    chain.adopt(keys)
    names = {stage.role: stage.name for stage in STAGES.values()}
    main = next((names[role] for role in _MAIN if names[role] in chain.outcomes), None)
    if main is None or chain.outcomes[main].run_id is None:
        raise RegistryError(
            f"expected a chain with a model to register, got one with: {', '.join(chain.outcomes) or 'nothing'}"
        )
    run_id = str(chain.outcomes[main].run_id)
    run = connect(chain.settings).get_run(run_id)
    parent = registry.champion()
    tags = {
        KEY: model_key(chain),
        SETTINGS: settings_digest(chain),
        f"{PREFIX}.preset": chain.pipeline.preset,
        f"{PREFIX}.stage": main,
        f"{PREFIX}.code": environment_tags()["mlflow.source.git.commit"],
        f"{PREFIX}.parent": "none" if parent is None else str(parent.number),
        f"{PREFIX}.why": f"{because.cause}: {because.text}",
        f"{PREFIX}.run.pipeline": pipeline_run_id,
        **{f"{PREFIX}.key.{name}": key for name, key in keys.items() if name in chain.outcomes},
        **{f"{PREFIX}.run.{name}": outcome.run_id or "" for name, outcome in chain.outcomes.items()},
        **_data_tags(chain),
    }
    description = f"{main} of the {chain.pipeline.preset} chain, trained because of {because.cause}: {because.text}"
    source = f"{run.info.artifact_uri}/{CHECKPOINT}"
    return registry.add(
        key=tags.pop(KEY),
        source=source,
        run_id=run_id,
        tags={name: value for name, value in tags.items() if value},
        description=description,
    )


def _data_tags(chain: Chain) -> dict[str, str]:
    source = chain.pipeline.prepare.source
    tags = {f"{PREFIX}.added": source.snapshot} if isinstance(source, Grown) else {}
    compressed = chain.outcomes.get(CompressResult.stage)
    if compressed is not None:
        assert isinstance(compressed.result, CompressResult)
        variants = variants_of(compressed.result)
        tags[f"{PREFIX}.variants"] = json.dumps([asdict(variant) for variant in variants])
    return tags
