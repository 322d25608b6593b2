"""Notify a Prefect server that data was added, so that a retraining starts before its schedule."""

from __future__ import annotations

import os
from dataclasses import asdict

from flows.sources.added import Taken

ADDED = "gptworks.data.added"
"""The event; ``prefect.yaml`` starts ``retrain/nightly`` by it."""


def send_added(taken: Taken) -> str:
    """Send the event, if a server is configured; returns what was done, in words.

    The event only makes a retraining earlier, so one that is lost costs hours and nothing else.
    """
    # only a server that runs on has anything that waits for an event
    if not _server():
        return "no Prefect server is configured (PREFECT_API_URL): the next scheduled retraining finds the data"
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker

    emit_event(
        event=ADDED,
        resource={"prefect.resource.id": f"gptworks.data.{taken.digest}", "prefect.resource.name": "added data"},
        payload={
            "digest": taken.digest,
            "files": [
                {name: asdict(entry)[name] for name in ("sha256", "kind", "n_items")} for entry in taken.new[:100]
            ],
        },
    )
    EventsWorker.instance().wait_until_empty()
    return f"sent {ADDED} to {_server()}"


def _server() -> str:
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value() or "")
