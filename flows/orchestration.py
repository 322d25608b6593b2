"""What a stage tells Prefect and learns from it; all of it does nothing outside a flow."""

from __future__ import annotations


def prefect_tags() -> dict[str, str]:
    """Tags that lead from a tracked run to its flow run; empty outside a flow."""
    from prefect.runtime import deployment, flow_run

    if not flow_run.id:
        return {}
    tags = {
        "prefect.flow_run_id": str(flow_run.id),
        "prefect.flow_run_name": str(flow_run.name),
        "prefect.flow_run_url": str(flow_run.ui_url or ""),
        "prefect.deployment": str(deployment.name or ""),
        "prefect.attempt": str(flow_run.run_count),
    }
    return {name: value for name, value in tags.items() if value}


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
