"""What a stage sends to Prefect and reads from it; outside a flow none of it has an effect."""

from __future__ import annotations

import os

from flows.orchestrator.temporary_server import is_temporary
from gptcore.errors import ConfigError


def check_worker_home() -> None:
    """Refuse to run for a worker without a lasting folder for outputs.

    A worker runs each flow in a folder that it removes; with the default of ``var`` below the working directory all
    outputs would go with it.

    Raises:
        ConfigError: this is a run of a deployment and ``GPTWORKS_HOME`` is not set.
    """
    from prefect.runtime import deployment

    if deployment.id and not os.environ.get("GPTWORKS_HOME"):
        raise ConfigError(
            "GPTWORKS_HOME is not set, and a worker removes the folder that it runs flows in; "
            "start the worker with GPTWORKS_HOME naming the folder where outputs are to stay"
        )


def prefect_tags() -> dict[str, str]:
    """Tags that lead from a tracked run to its flow run; empty outside a flow."""
    from prefect.runtime import deployment, flow_run

    if not flow_run.id:
        return {}
    url = "" if is_temporary() else str(flow_run.ui_url or "")
    tags = {
        "prefect.flow_run_id": str(flow_run.id),
        "prefect.flow_run_name": str(flow_run.name),
        # a server that Prefect starts itself has no pages, and it gives "None/flow-runs/..." then
        "prefect.flow_run_url": url if url.startswith("http") else "",
        "prefect.deployment": str(deployment.name or ""),
        "prefect.attempt": str(flow_run.run_count),
    }
    return {name: value for name, value in tags.items() if value}


def current_flow_run() -> str | None:
    """Id of the flow run that this is a part of; None outside a flow."""
    from prefect.runtime import flow_run

    return str(flow_run.id) if flow_run.id else None


def publish_link(stage: str, url: str) -> None:
    """Show the tracked run on the page of the flow run."""
    from prefect.artifacts import create_link_artifact
    from prefect.runtime import flow_run

    if flow_run.id and url:
        create_link_artifact(key=f"mlflow-{stage}", link=url, link_text=f"{stage} in MLflow")


def publish_markdown(key: str, text: str) -> None:
    """Show a text on the page of the flow run."""
    from prefect.artifacts import create_markdown_artifact
    from prefect.runtime import flow_run

    if flow_run.id:
        create_markdown_artifact(key=key, markdown=text)


def publish_table(key: str, rows: list[dict[str, str]], *, description: str) -> None:
    """Show rows on the page of the flow run."""
    from prefect.artifacts import create_table_artifact
    from prefect.runtime import flow_run

    if flow_run.id:
        create_table_artifact(key=key, table=rows, description=description)
