"""The chat page in headless Chromium: a conversation with a real model, a token, an error, nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from flows.serving import Served
from gptcore.generation import Generator, Request, Sampling
from gptcore.text import Turn

pytestmark = pytest.mark.browser
Serving = Callable[..., Any]


def said(served: Served, turns: list[Turn]) -> str:
    """What the model answers, without a server, by the page's settings in these tests."""
    ids, _ = served.text.encode_chat(turns, room=10_000)
    request = Request(ids, Sampling(max_new_tokens=30), end_token=served.text.end_token, stop=served.text.stops)
    return Generator(served.text.model, tokenizer=served.text.tokenizer, slots=1).generate([request])[0].text


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("GPTWORKS_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"chat-{name}.png"))


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (400, "dark")])
def test_a_conversation(url: str, served: Served, browser: Any, width: int, scheme: Literal["light", "dark"]) -> None:
    page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    requests: list[str] = []
    trouble: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(url)
    page.locator("#model").get_by_text("keeper, context of 4096 tokens").wait_for()
    page.fill("#temperature", "0")
    page.fill("#max_tokens", "30")
    page.fill("#text", "Who saw <b>them</b>?")
    page.press("#text", "Enter")
    page.locator(".note").nth(0).wait_for()
    first = said(served, [Turn("user", "Who saw <b>them</b>?")])
    assert page.locator(".turn").all_text_contents() == ["Who saw <b>them</b>?", first]
    assert page.locator(".note").nth(0).inner_text().startswith("30 tokens, ")
    page.fill("#text", "Why?")
    page.click("#send")
    page.locator(".note").nth(1).wait_for()
    turns = [Turn("user", "Who saw <b>them</b>?"), Turn("assistant", first), Turn("user", "Why?")]
    assert page.locator(".turn").nth(3).text_content() == said(served, turns)
    picture(page, f"{width}-{scheme}")
    assert trouble == []
    assert all(request.startswith(url) for request in requests)
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    page.click("#clear")
    assert page.locator(".turn").count() == 0
    page.close()


def test_an_answer_can_be_stopped(serving: Serving, browser: Any, until: Any, metric: Any) -> None:
    with serving(slots=1) as url:
        page = browser.new_page()
        page.goto(url)
        page.fill("#temperature", "0")
        page.fill("#max_tokens", "4000")
        page.fill("#text", "Who?")
        page.press("#text", "Enter")
        # in one go: the whole answer takes three seconds, and a busy machine's click may take longer
        page.wait_for_function(
            "() => document.querySelector('.assistant')?.textContent.length > 20"
            " && (document.querySelector('#stop').click(), true)"
        )
        page.get_by_text("stopped").wait_for()
        until(lambda: metric(url, "gptworks_active_slots") == 0)
        assert page.locator("#send").is_enabled()
        page.close()


def test_a_token_and_a_refusal_are_shown(serving: Serving, browser: Any) -> None:
    with serving(token="open-sesame", max_body_bytes=400) as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_text("a bearer token is needed").wait_for()
        page.fill("#token", "open-sesame")
        page.press("#token", "Tab")
        page.locator("#model").get_by_text("keeper").wait_for()
        page.fill("#text", "x" * 500)
        page.press("#text", "Enter")
        page.get_by_text("the body is larger than 400 bytes").wait_for()
        assert page.locator(".turn.assistant").count() == 0
        picture(page, "refused")
        page.close()
