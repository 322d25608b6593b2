"""A running stage on the page of its flow run: how far it is, and the link to its tracked run.

A thread posts to Prefect, at most every ten seconds, so that a slow or unreachable server delays no training.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.orchestrator.flow_run import current_flow_run
from flows.tracking.logger import MlflowLogger
from gptcore.train import Progress

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SECONDS_BETWEEN_UPDATES = 10.0
_SECONDS_TO_END = 5.0

log = logging.getLogger(__name__)


@contextmanager
def on_flow_page(stage: str, run: MlflowLogger) -> Iterator[Callable[[Progress], None]]:
    """Yields an ``on_progress`` callback; outside a flow it does nothing."""
    flow_run_id = current_flow_run()
    if flow_run_id is None:
        yield _ignore
        return
    page = _Page(stage, run, flow_run_id)
    page.thread.start()
    try:
        yield page.report
        page.share = 1.0
    finally:
        page.over.set()
        page.thread.join(_SECONDS_TO_END)


def _ignore(progress: Progress) -> None:
    del progress


class _Page:
    """Posts the latest progress until it is over."""

    def __init__(self, stage: str, run: MlflowLogger, flow_run_id: str) -> None:
        self.stage, self.run, self.flow_run_id = stage, run, UUID(flow_run_id)
        self.share = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._post_until_over, name=f"{stage}-page", daemon=True)
        self._figures = ""
        self._artifact: UUID | None = None
        self._linked = False

    def report(self, progress: Progress) -> None:
        """Remember the latest progress; posts nothing itself."""
        self.share = min(1.0, progress.step / max(1, progress.n_steps))
        if progress.metrics:
            shown = {name: value for name, value in progress.metrics.items() if name.startswith(("train/loss", "val/"))}
            self._figures = ", ".join(f"{name} {value:.4g}" for name, value in shown.items()) or self._figures

    def _post_until_over(self) -> None:
        from prefect.client.orchestration import get_client

        over = False
        while not over:
            over = self.over.wait(SECONDS_BETWEEN_UPDATES if self._artifact else 0.0)
            try:
                with get_client(sync_client=True) as client:
                    self._post_progress(client)
                    self._post_link(client, wait=over)
            except Exception as error:  # whatever the client raises: this is a courtesy
                log.info("cannot post the progress of %s to Prefect: %s", self.stage, error)
                over = over or self.over.wait(SECONDS_BETWEEN_UPDATES)

    def _post_progress(self, client: SyncPrefectClient) -> None:
        from prefect.client.schemas.actions import ArtifactUpdate

        share, about = round(100 * self.share, 1), f"{self.stage} {self._figures}".strip()
        if self._artifact is None:
            self._artifact = self._create(client, f"progress-{self.stage}", "progress", share, about)
        else:
            client.update_artifact(self._artifact, ArtifactUpdate(data=share, description=about))

    def _post_link(self, client: SyncPrefectClient, *, wait: bool) -> None:
        if self._linked:
            return
        url = self.run.url if wait or self.run.known_id else ""  # which asks for MLflow's id
        if url:
            self._create(client, f"mlflow-{self.stage}", "markdown", f"[{self.stage} in MLflow]({url})", None)
            self._linked = True

    def _create(self, client: SyncPrefectClient, key: str, kind: str, data: Any, about: str | None) -> UUID:
        from prefect.client.schemas.actions import ArtifactCreate

        wanted = ArtifactCreate(key=key, type=kind, data=data, description=about, flow_run_id=self.flow_run_id)
        return client.create_artifact(wanted).id
