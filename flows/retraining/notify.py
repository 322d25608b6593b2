"""Notify people of an outcome through a Prefect block: a notification service, or any webhook."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


def notify(block: str | None, *, subject: str, text: str, facts: Mapping[str, Any]) -> bool:
    """Send a message; False if there is no block, or it is missing or does not answer, which is logged as a warning.

    ``block`` is kind and name of a saved one, as ``slack-webhook/ops`` or ``webhook/ops``; a webhook gets ``facts``
    beside the subject and the text (markdown), as JSON.
    """
    if block is None:
        return False
    from prefect.blocks.core import Block

    try:
        loaded: Any = _finish(Block.load(block))
        if hasattr(loaded, "notify"):
            _finish(loaded.notify(body=text, subject=subject))
        else:
            answer = _finish(loaded.call(payload={"subject": subject, "text": text, **facts}))
            answer.raise_for_status()
    except Exception as error:  # whatever a service raises, the model is published or not
        log.warning("the notification by %s failed: %s: %s", block, type(error).__name__, error)
        return False
    return True


def _finish(result: Any) -> Any:
    """Prefect's methods return a value or an awaitable, depending on where they are called."""
    return asyncio.run(_wait_for(result)) if inspect.isawaitable(result) else result


async def _wait_for(result: Any) -> Any:
    return await result
