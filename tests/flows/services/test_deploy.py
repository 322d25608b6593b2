"""The work pool: Prefect's own template with what deploy/ sets, and prefect.yaml against the flows themselves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from flows.services.deploy import POOL, ROOT, UPKEEP, PoolType, pool_template, prefect_template
from gptcore.errors import ConfigError

pytestmark = pytest.mark.flows  # imports every flow
KINDS = get_args(PoolType)
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def ids(deployment: dict[str, Any]) -> str:
    return f"{deployment['entrypoint'].rpartition('.')[2]}/{deployment['name']}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_is_prefects_own_with_other_defaults(kind: PoolType) -> None:
    own, ours = prefect_template(kind), pool_template(kind)
    given = yaml.safe_load((ROOT / "deploy" / f"{kind}.yaml").read_text(encoding="utf-8"))
    changed = {
        name for name, facts in ours["variables"]["properties"].items() if facts != own["variables"]["properties"][name]
    }
    assert changed <= set(given["defaults"])
    for name, value in given["defaults"].items():
        assert ours["variables"]["properties"][name]["default"] == value
    assert set(ours["job_configuration"]) == set(own["job_configuration"])


def test_a_job_of_a_cluster_keeps_all_that_prefects_own_has() -> None:
    own = prefect_template("kubernetes")["job_configuration"]["job_manifest"]
    ours = pool_template("kubernetes")["job_configuration"]["job_manifest"]
    assert holds(ours, own)
    pod = ours["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["terminationGracePeriodSeconds"] >= 45


def holds(ours: Any, own: Any) -> bool:
    """Whether everything in one manifest is in the other."""
    if isinstance(own, dict):
        return isinstance(ours, dict) and all(name in ours and holds(ours[name], own[name]) for name in own)
    if isinstance(own, list):
        return isinstance(ours, list) and len(ours) == len(own) and all(map(holds, ours, own))
    return bool(ours == own)


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_runs_elsewhere_keep_their_outputs_and_find_mlflow(kind: PoolType) -> None:
    variables = pool_template(kind)["variables"]["properties"]["env"]["default"]
    assert variables["GPTWORKS_HOME"] == "/app/var"
    assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_containers_join_what_compose_has_made() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    variables = {n: v.get("default") for n, v in pool_template("docker")["variables"]["properties"].items()}
    assert variables["image"] == compose["services"]["worker"]["image"]
    (volume,) = variables["volumes"]
    assert volume.partition(":")[0].removeprefix(f"{compose['name']}_") in compose["volumes"]
    assert volume.partition(":")[2] == variables["env"]["GPTWORKS_HOME"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: {imagee: a}", "a docker pool has no variable 'imagee'; expected one of command, env"),
        ("defaults: {image: 7}", "image: 7 is not of type 'string'"),
        ("defaults: {volumes: here}", "volumes: 'here' is not of type 'array'"),
        ("configuration: {imagee: a}", "a docker job has no part 'imagee'"),
        ("configuration: {image: '{{ imagee }}'}", "a docker pool has no variables imagee"),
    ],
)
def test_what_prefect_does_not_know_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "docker.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        pool_template("docker", folder=tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=ids)
def test_job_variables_of_a_deployment_fit_every_kind_of_pool(deployment: dict[str, Any], kind: PoolType) -> None:
    schema = pool_template(kind)["variables"]
    variables = deployment["work_pool"]["job_variables"]
    assert set(variables) <= set(schema["properties"])
    jsonschema.Draft202012Validator(schema).validate(variables)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=ids)
def test_parameters_and_texts_of_a_deployment_are_those_of_its_flow(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    flow.validate_parameters(deployment.get("parameters", {}))
    assert deployment["description"].endswith(".")
    assert "gptworks" in deployment["tags"]
    assert deployment["work_pool"]["name"] == POOL
    queue = deployment["work_pool"].get("work_queue_name", "default")
    assert (queue == UPKEEP) == ("upkeep" in deployment["tags"])
    for schedule in deployment.get("schedules", []):
        assert schedule["slug"]
        assert "/" in schedule["timezone"] or schedule["timezone"] == "UTC"
        assert isinstance(schedule["active"], bool)


def test_every_flow_is_deployed() -> None:
    from prefect import Flow

    deployed = {deployment["entrypoint"] for deployment in DEPLOYMENTS}
    holders = [path.stem for path in (ROOT / "flows").glob("*.py") if "from prefect import" in path.read_text()]
    for module in (f"flows.{name}" for name in sorted(holders)):
        flows = {n: f for n, f in vars(importlib.import_module(module)).items() if isinstance(f, Flow)}
        own = {f"{module}.{name}" for name, flow in flows.items() if flow.fn.__module__ == module}
        assert own <= deployed, module
