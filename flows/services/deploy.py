"""Create the work pool and its queues, and deploy every flow of prefect.yaml to it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jsonschema
import yaml

from flows.services.prefect_api import PrefectApi
from flows.services.processes import ServiceError
from gptcore.errors import ConfigError

POOL = "gptworks"
"""Name of the work pool in prefect.yaml."""
UPKEEP = "upkeep"
"""Queue of the runs that look after the others; a training must not hold them up."""
PoolType = Literal["process", "docker", "kubernetes"]
ROOT = Path(__file__).parents[2]
_TEMPLATES = "prefect/server/api/collections_data/views/aggregate-worker-metadata.json"
_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def pool_template(kind: PoolType, *, folder: Path = ROOT / "deploy") -> dict[str, Any]:
    """The base job template of a pool: Prefect's own, with what ``deploy/<kind>.yaml`` sets.

    Raises:
        ConfigError: a default names no variable of Prefect's template or is not of its type, or a part of the job is
            unknown or names a variable that is.
    """
    path = folder / f"{kind}.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    template = prefect_template(kind)
    variables = template["variables"]["properties"]
    for name, value in given.get("defaults", {}).items():
        if name not in variables:
            raise ConfigError(f"{path}: a {kind} pool has no variable {name!r}; expected one of {', '.join(variables)}")
        variables[name]["default"] = value
    defaults = {name: facts["default"] for name, facts in variables.items() if facts.get("default") is not None}
    for error in jsonschema.Draft202012Validator(template["variables"]).iter_errors(defaults):
        raise ConfigError(f"{path}: {'.'.join(map(str, error.path))}: {error.message}")
    for part, value in given.get("configuration", {}).items():
        if part not in template["job_configuration"]:
            raise ConfigError(f"{path}: a {kind} job has no part {part!r}")
        template["job_configuration"][part] = value
    unknown = set(_PLACEHOLDER.findall(json.dumps(template["job_configuration"]))) - set(variables)
    if unknown:
        raise ConfigError(f"{path}: a {kind} pool has no variables {', '.join(sorted(unknown))}")
    return template


def prefect_template(kind: PoolType) -> dict[str, Any]:
    """The base job template that the installed Prefect has for a pool of this type."""
    path = Path(str(importlib.metadata.distribution("prefect").locate_file(_TEMPLATES)))
    packages = json.loads(path.read_text(encoding="utf-8"))
    (found,) = (workers[kind] for workers in packages.values() if kind in workers)
    template: dict[str, Any] = found["default_base_job_configuration"]
    return template


def deploy(
    api: PrefectApi, *, environment: Mapping[str, str], kind: PoolType = "process", limit: int = 1, folder: Path = ROOT
) -> str:
    """Create pool and queues, and deploy every flow of ``folder``'s prefect.yaml; what is there is brought up to date.

    ``environment`` holds all variables of the ``prefect`` command that deploys; ``limit`` runs of the pool's own queue
    may run at once. Gives what the command printed.

    Raises:
        ServiceError: the server does not answer, or refuses a deployment.
        ConfigError: the folder has no prefect.yaml.
    """
    if not (folder / "prefect.yaml").is_file():
        raise ConfigError(f"{folder} has no prefect.yaml; deploy from a clone of the project, or its image")
    api.put_pool(POOL, kind=kind, template=pool_template(kind, folder=folder / "deploy"))
    # A run that was killed keeps its slot until reconcile, which needs another slot to find that out.
    api.put_queue(POOL, "default", limit=limit, priority=2)
    api.put_queue(POOL, UPKEEP, limit=1, priority=1)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=folder,
        env={**environment, "PREFECT_API_URL": api.url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise ServiceError(f"prefect deploy failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout
