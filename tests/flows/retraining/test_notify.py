"""Notifications through real Prefect blocks to a real socket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from flows.retraining.notify import notify

pytestmark = [pytest.mark.flows, pytest.mark.timeout(240)]
SAID = {"subject": "gpt: promote", "text": "**promote**: better", "facts": {"version": 3}}


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What is warned of: by a handler of its own, since Prefect takes the loggers away from pytest's."""
    said = list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("flows.retraining.notify")
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


def test_a_webhook_gets_the_outcome_with_its_facts(listener: Any, warned: list[str]) -> None:
    from prefect import flow
    from prefect.blocks.webhook import Webhook

    Webhook(method="POST", url=listener.url).save("ops", overwrite=True)
    assert notify("webhook/ops", **SAID)
    assert listener.got == [{"subject": SAID["subject"], "text": SAID["text"], "version": 3}]

    assert flow(lambda: notify("webhook/ops", **SAID), name="tells")()
    assert len(listener.got) == 2

    listener.statuses = [500]
    assert not notify("webhook/ops", **SAID)
    assert "the notification by webhook/ops failed: HTTPStatusError: " in warned[0]


def test_a_notification_service_gets_subject_and_text(listener: Any) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    custom = CustomWebhookNotificationBlock(name="ops", url=listener.url, json_data={"all": "{{subject}}|{{body}}"})
    custom.save("ops", overwrite=True)
    assert notify("custom-webhook/ops", **SAID)
    assert listener.got == [{"all": f"{SAID['subject']}|{SAID['text']}"}]


def test_a_block_that_is_not_there_is_told_and_changes_nothing(warned: list[str]) -> None:
    assert not notify("webhook/nobody", **SAID)
    assert "the notification by webhook/nobody failed: ValueError: Unable to find block document" in warned[0]
    assert not notify(None, **SAID)
