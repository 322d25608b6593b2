"""MLflow's store: reaching it, its experiments, and which of its runs a run's own id stands for."""

from __future__ import annotations

import logging
import ssl
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from flows.settings import Settings
from flows.tracking.journal import LOCAL_ID, find_journal
from flows.tracking.notes import experiment_tags
from flows.tracking.shipment import NotYet
from gptcore.errors import GptcoreError
from gptcore.locking import hold

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PREFIX = "gptworks"
_SECONDS_TO_ANSWER = 5.0
log = logging.getLogger(__name__)


class TrackingError(GptcoreError):
    """The tracking store cannot be reached, or refuses."""

    exit_code = 9


def check_answers(settings: Settings) -> None:
    """Check that a server is alive: MLflow's own client would take minutes to notice that there is none.

    Raises:
        OSError: nothing answers within five seconds. Any answer counts, also one that asks for a password.
    """
    if not settings.mlflow_uri.startswith("http"):
        return
    try:
        with urllib.request.urlopen(f"{settings.mlflow_uri.rstrip('/')}/health", timeout=_SECONDS_TO_ANSWER):
            pass
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # the client may be configured to trust it
            raise


def connect(settings: Settings) -> MlflowClient:
    """A client of the tracking store; the first use of a new SQLite file creates its tables, one process at a time.

    Raises:
        TrackingError: the store cannot be reached.
    """
    for noisy in ("alembic", "mlflow.store.db.utils"):  # a line for each of a hundred migrations
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        check_answers(settings)
        from mlflow import MlflowClient

        with _store_lock(settings):
            client = MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            f"MLflow at {settings.mlflow_uri} (MLFLOW_TRACKING_URI) cannot be used: {type(error).__name__}: {error}; "
            "start that server, or unset MLFLOW_TRACKING_URI to keep runs in a local SQLite file"
        ) from error
    return client


def stage_experiment(settings: Settings, client: MlflowClient, stage: str, about: str = "") -> str:
    """Id of a stage's experiment, ``gptworks/<stage>``, made when it is missing and then described by ``about``.

    Beside an SQLite store its artifacts get an explicit folder.

    Raises:
        TrackingError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    name = f"{PREFIX}/{stage}"
    location = (settings.artifact_root / name).as_uri() if settings.mlflow_is_local else None
    tags = experiment_tags(stage, about)
    with _store_lock(settings):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=location, tags=tags))
            except MlflowException:
                found = client.get_experiment_by_name(name)  # a server's other client was faster
                if found is None:
                    raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment {name!r} was deleted in MLflow; bring it back with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or remove it with `mlflow gc`"
        )
    for tag, text in tags.items():  # of one that an earlier version made, or where nobody wrote one
        if tag not in found.tags:
            client.set_experiment_tag(found.experiment_id, tag, text)
    return str(found.experiment_id)


def translate(settings: Settings, client: MlflowClient, text: str) -> str:
    """The text with MLflow's ids in the place of the runs' own; an id that MLflow never heard of stays.

    Raises:
        NotYet: a run in it is still to be made in MLflow.
    """
    return LOCAL_ID.sub(lambda match: find_run_id(settings, client, match[0]) or match[0], text)


def find_run_id(settings: Settings, client: MlflowClient, local_id: str) -> str | None:
    """MLflow's id of a run, or None.

    Raises:
        NotYet: its journal has not been sent.
    """
    journal = find_journal(settings.spool, local_id)
    if journal is not None and journal.header() is not None:
        found = journal.state().run_id
        if found is None:
            raise NotYet(f"{local_id} is not in MLflow yet")
        return found
    runs = search_runs(client, f"tags.`{PREFIX}.local_run` = '{local_id}'")
    return str(runs[0].info.run_id) if runs else None


def search_runs(client: MlflowClient, condition: str) -> list[Run]:
    """Every run of this project that a condition in MLflow's language holds for."""
    experiments = client.search_experiments(filter_string=f"name LIKE '{PREFIX}/%'")
    ids = [experiment.experiment_id for experiment in experiments]
    found: list[Run] = []
    token, more = None, bool(ids)
    while more:
        page = client.search_runs(ids, condition, page_token=token)
        found += page
        token, more = page.token, bool(page.token)
    return found


def _store_lock(settings: Settings) -> AbstractContextManager[None]:
    # Two processes that set up the same new SQLite file at once: one of them fails.
    return (
        hold(settings.home / "mlflow.lock", purpose="the MLflow store") if settings.mlflow_is_local else nullcontext()
    )
