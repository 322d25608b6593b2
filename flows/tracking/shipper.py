"""The thread of this process that brings journals to MLflow, so that nothing else ever waits for it.

It sends every few seconds while MLflow answers, and more and more rarely while it does not. Beside the runs of this
process it takes up what earlier processes have left behind. Who closes a run waits for it here, but only as long as
something moves.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from flows.settings import Settings
from flows.store import StageStore
from flows.tracking.journal import Journal, close_abandoned, journals
from flows.tracking.shipment import NotYet, Shipment
from flows.tracking.store import check_answers, connect, stage_experiment, translate
from gptcore.errors import LockedError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SECONDS_BETWEEN_SENDS = 5.0
LONGEST_PAUSE = 300.0
"""Seconds between two attempts when MLflow has been away for long."""
_SECONDS_BETWEEN_REQUESTS = 0.2
"""To send at once, while somebody waits."""
_SECONDS_TO_LET_GO = 0.0005
"""How long a thread of this process may keep the interpreter while another waits for it."""
_TICK = 1.0
"""Seconds between two syncs of the journals: the most that the death of the machine can cost."""

log = logging.getLogger(__name__)


class Shipper:
    """Sends the journals of one project folder to one tracking store."""

    def __init__(self, settings: Settings) -> None:
        """Nothing runs until a journal is attended."""
        self.settings = settings
        self._shipments: dict[str, Shipment] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._client: MlflowClient | None = None
        self._asked = False
        self._failing: Exception | None = None
        self._tried = -LONGEST_PAUSE
        self._pause = SECONDS_BETWEEN_SENDS
        self._passes = 0
        self._looked_back = False

    def attend(self, journal: Journal) -> Shipment:
        """Send what the journal holds, and what it will hold until ``finish``."""
        with self._changed:
            shipment = self._shipments.setdefault(journal.id, self._shipment(journal))
            shipment.journal = journal  # the writer's own, which has what is in memory alone
            shipment.finished = False
            self._go()
        return shipment

    def finish(self, shipment: Shipment) -> None:
        """Nothing more will be logged: release the journal when MLflow has it."""
        with self._changed:
            shipment.finished = True
            self._go()

    def sweep(self) -> None:
        """Take up what processes that are gone have left behind."""
        with self._changed:
            self._looked_back = False
            self._go()

    def wait(self, shipment: Shipment, *, stall: float) -> bool:
        """Wait until MLflow has all that was logged.

        Returns:
            False when MLflow does not answer, or nothing moves for ``stall`` seconds; what is left is sent later.
        """
        with self._changed:
            passes, calls, since = self._passes, shipment.calls, time.monotonic()
            if self._failing is not None and since - self._tried < SECONDS_BETWEEN_SENDS:
                return False  # it was away a moment ago
            asked = -1.0
            while not shipment.settled:
                if time.monotonic() - asked > _SECONDS_BETWEEN_REQUESTS:
                    asked = time.monotonic()
                    self._go()
                self._changed.wait(0.02)
                if shipment.calls != calls:
                    calls, since = shipment.calls, time.monotonic()
                failed = (self._failing or shipment.problem) is not None and self._passes > passes
                if failed or time.monotonic() - since > stall:
                    return False
        return True

    def wait_for_id(self, shipment: Shipment, *, patience: float) -> str | None:
        """MLflow's id of the run; None when MLflow does not give one within ``patience`` seconds."""
        until = time.monotonic() + patience
        with self._changed:
            while shipment.state.run_id is None:
                if (self._failing or shipment.problem) is not None or time.monotonic() > until:
                    return None
                self._changed.wait(0.02)
        return shipment.state.run_id

    def wait_for_rest(self, *, stall: float) -> None:
        """When the last open run has ended, wait for those that ended while MLflow was away."""
        with self._changed:
            rest = list(self._shipments.values())
        if all(shipment.finished for shipment in rest):
            for shipment in rest:
                self.wait(shipment, stall=stall)

    def wait_for_all(self, *, stall: float) -> list[Shipment]:
        """Wait for every journal that is attended or was left behind; those that could not be brought to MLflow."""
        with self._changed:
            passes = self._passes
            self._go()
            while not self._has_tried(self._passes - passes):
                self._changed.wait(0.02)
            every = list(self._shipments.values())
        return [shipment for shipment in every if not self.wait(shipment, stall=stall)]

    def _has_tried(self, n_passes: int) -> bool:
        """Whether that many passes are enough to know; the first may have begun before MLflow was back."""
        if self._looked_back and all(shipment.settled for shipment in self._shipments.values()):
            return True
        if self._failing is not None:
            if n_passes == 1:
                self._go()
            return n_passes > 1
        return self._looked_back and n_passes > 0

    # -- the thread

    def _go(self) -> None:
        self._asked = True
        if self._thread is None:
            # python's default lets a thread keep the interpreter for 5 ms, and a training would wait that long for it
            sys.setswitchinterval(min(sys.getswitchinterval(), _SECONDS_TO_LET_GO))
            self._thread = threading.Thread(target=self._run, name="gptworks-shipper", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._looked_back and not self._shipments:
                    self._thread = None
                    self._changed.notify_all()
                    return
                if not self._asked:
                    self._changed.wait(_TICK)
                due = self._asked or time.monotonic() - self._tried >= self._pause
                self._asked = False
                shipments = list(self._shipments.values())
            for shipment in shipments:
                shipment.journal.sync()
            if due and not (self._looked_back and all(shipment.settled for shipment in shipments)):
                self._pass()

    def _pass(self) -> None:
        try:
            client = self._reach()
            self._look_back()
            with self._changed:
                shipments = list(self._shipments.values())
            problems = [shipment for shipment in shipments if not self._send(shipment, client)]
        except Exception as error:  # whatever a client raises, logging continues
            self._fail(error)
        else:
            self._recover()
            self._pause = min(2 * self._pause, LONGEST_PAUSE) if problems else SECONDS_BETWEEN_SENDS
        with self._changed:
            self._tried = time.monotonic()
            self._passes += 1
            self._changed.notify_all()

    def _reach(self) -> MlflowClient:
        check_answers(self.settings)
        if self._client is None:
            self._client = connect(self.settings)
        return self._client

    def _look_back(self) -> None:
        if self._looked_back:
            return
        for journal in journals(self.settings.spool):
            with self._changed:
                if journal.id in self._shipments:
                    continue
            if journal.owned:
                continue
            close_abandoned(journal, whole=self._is_whole(journal))
            if journal.settled:
                continue
            shipment = self._shipment(journal)
            shipment.finished = True
            with self._changed:
                self._shipments.setdefault(journal.id, shipment)
        self._looked_back = True

    def _is_whole(self, journal: Journal) -> bool:
        """Whether the process of a run had committed its output before it died."""
        header = journal.header()
        entry = None if header is None else StageStore(self.settings.store).find(header["stage"], header["key"])
        return entry is not None and entry.run_id in (journal.id, journal.state().run_id)

    def _send(self, shipment: Shipment, client: MlflowClient) -> bool:
        """Send one journal; False if something hindered it, and only it."""
        try:
            shipment.ship(client)
        except LockedError:  # another process sends it
            return True
        except NotYet as wait:
            log.info("%s waits: %s", shipment.journal.id, wait)
            return True
        except Exception as error:
            self._reach()  # is it this run, or MLflow?
            if shipment.problem is None:
                log.warning("run %s cannot be sent to MLflow now: %s", shipment.journal.id, error)
            shipment.problem = error
            return False
        shipment.problem = None
        self._let_go(shipment)
        with self._changed:
            self._changed.notify_all()
        return True

    def _let_go(self, shipment: Shipment) -> None:
        with self._changed:
            if shipment.finished and shipment.done:
                shipment.let_go()  # its record first: who sees no shipment any more looks at the record
                del self._shipments[shipment.journal.id]

    def _fail(self, error: Exception) -> None:
        if self._failing is None:
            log.warning("MLflow cannot be reached (%s); what is logged is kept in %s", error, self.settings.spool)
        self._failing = error
        self._client = None
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _recover(self) -> None:
        if self._failing is not None:
            log.warning("MLflow answers again")
        self._failing = None

    def _shipment(self, journal: Journal) -> Shipment:
        experiment, resolve = partial(stage_experiment, self.settings), partial(translate, self.settings)
        return Shipment(journal, experiment=experiment, resolve=resolve)


_shippers: dict[tuple[str, str], Shipper] = {}
_guard = threading.Lock()


def shipper_of(settings: Settings) -> Shipper:
    """The shipper of this process for a project folder and a tracking store."""
    with _guard:
        return _shippers.setdefault((str(settings.spool), settings.mlflow_uri), Shipper(settings))
