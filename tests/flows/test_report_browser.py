"""The report page in headless Chromium: nothing overflows, nothing is fetched, both colour schemes can be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from eval.testing.fake_ollama import FakeOllama
from eval.testing.fake_ollama.answers import score_overlap
from flows.report.page import write_report
from flows.stages.outcome import PipelineReport

pytestmark = pytest.mark.browser
MakeReport = Callable[..., PipelineReport]

# WCAG contrast of every leaf of text against the nearest opaque background behind it; SVG text is filled, not coloured.
CONTRAST = """() => {
  const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  const bad = [];
  for (const e of document.querySelectorAll('main *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), ink = rgba(e.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) bad.push(`${e.tagName} "${e.textContent.trim().slice(0, 30)}" ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
# What reaches beyond the window without a scroll container around it.
BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.tagName + '.' + (e.getAttribute('class') || ''))"""


def strict_score(answer: str, reference: str) -> int:
    return score_overlap(answer, reference) ** 2 // 100


@pytest.fixture(scope="module")
def path(make_report: MakeReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole run."""
    return write_report(make_report(), tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_fits_is_readable_and_fetches_nothing(
    path: Path, browser: Any, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = sound(browser, path, width=width, scheme=scheme)
    folder = os.environ.get("GPTWORKS_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"report-{width}-{scheme}.png"), full_page=True)
    page.close()


def sound(browser: Any, path: Path, *, width: int, scheme: Literal["light", "dark"]) -> Any:
    """The page, opened with all its parts, once it is shown to fit, to be readable and to fetch nothing."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    trouble: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    page.goto(path.as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert requests == [path.as_uri()]
    assert trouble == []
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    assert page.evaluate(BEYOND) == []
    assert page.evaluate(CONTRAST) == []
    return page


@pytest.mark.flows
@pytest.mark.parametrize("is_sound", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_judges_part_tells_validity_first_and_can_be_read_in_both_schemes(
    judged: Any, make_report: MakeReport, browser: Any, tmp_path: Path, is_sound: bool
) -> None:
    with FakeOllama(score=score_overlap if is_sound else lambda *_: 70, others={"phi3:mini": strict_score}) as server:
        options = {"judge_models": ("instruct", "base", "lora"), "judge_panel": ("phi3:mini",), "pairwise": True}
        result, _, folder = judged(server, lora=True, **options)
    report = make_report(only=("evaluate",))
    report = replace(report, stages=(replace(report.stages[0], path=folder, result=result),))
    path = write_report(report, tmp_path / "report.html")
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        for width in (1280, 420):
            page = sound(browser, path, width=width, scheme=scheme)
            part = page.locator("#evaluation")
            words = part.inner_text()
            verdict = "Valid." if is_sound else "Judge not validated."
            order = [
                verdict,
                "than the base model",
                "Controls",
                "Side by side",
                "Panel",
                "Figures",
                "Best by the judge",
            ]
            places = [words.index(one) for one in order]
            assert places == sorted(places)
            assert part.locator("svg").count() == 5
            assert page.locator("script").count() == 0
            shots = os.environ.get("GPTWORKS_SCREENSHOTS")
            if shots:
                name = f"judge-{'valid' if is_sound else 'invalid'}-{width}-{scheme}.png"
                part.screenshot(path=str(Path(shots) / name))
            page.close()


def test_the_schemes_differ_and_figures_follow(path: Path, browser: Any) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("() => getComputedStyle(document.querySelector('#loss svg text')).fill")
        line = page.evaluate("() => getComputedStyle(document.querySelector('#loss svg [id*=line2d] path')).stroke")
        seen[scheme] = (background, ink, line)
        page.close()
    assert all(light != dark for light, dark in zip(seen["light"], seen["dark"], strict=True))
