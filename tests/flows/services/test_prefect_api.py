"""What becomes of a request to a Prefect server that is busy."""

from __future__ import annotations

from typing import Any

import pytest

from flows.services import prefect_api
from flows.services.prefect_api import PrefectApi
from flows.services.processes import ServiceError


def test_a_busy_server_is_asked_again(listener: Any) -> None:
    listener.statuses = [503, 503, 204]
    with PrefectApi(listener.url) as api:
        api.pause_pool("gptworks", paused=False)
    assert listener.got == 3 * [{"is_paused": False}]


def test_one_that_is_busy_for_good_is_told(listener: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    listener.statuses = [503]
    monkeypatch.setattr(prefect_api, "_SECONDS_BUSY", 0.6)
    with (
        PrefectApi(listener.url) as api,
        pytest.raises(ServiceError, match="refuses PATCH /work_pools/gptworks: 503"),
    ):
        api.pause_pool("gptworks", paused=False)
    assert len(listener.got) > 1
