"""``gptworks doctor`` on the judge: what it finds, and the command that mends it, without failing for want of one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.testing.fake_ollama import FakeOllama
from flows.cli.entry import main

pytestmark = pytest.mark.flows


@pytest.fixture
def finding(
    judge_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Server's address and arguments of doctor -> the state and the detail in the judge's line."""
    monkeypatch.setenv("GPTWORKS_HOME", str(judge_home))
    monkeypatch.setenv("COLUMNS", "600")

    def look(url: str, *arguments: str) -> tuple[str, str]:
        monkeypatch.setenv("OLLAMA_HOST", url)
        with pytest.raises(SystemExit) as end:
            main(("doctor", *arguments))
        assert not end.value.code  # a judge is not essential
        lines = [line.split("│")[1:4] for line in capsys.readouterr().out.splitlines() if line.count("│") == 4]
        rows = [[cell.strip() for cell in line] for line in lines]
        first = [name for name, _, _ in rows].index("judge")
        rest = itertools.takewhile(lambda row: not row[0], rows[first + 1 :])  # a long detail goes on below
        return rows[first][1], " ".join([rows[first][2], *(detail for _, _, detail in rest)])

    return look


def test_a_judge_that_is_there_is_told_with_what_identifies_it(finding: Callable[..., tuple[str, str]]) -> None:
    with FakeOllama() as server:
        state, detail = finding(server.url)
        assert (state, server.model_digest[:12] in detail, server.version in detail) == ("ok", True, True)
        assert detail.endswith(f"at {server.url}")


def test_a_server_that_is_down_is_absent_with_the_command_that_starts_it(
    finding: Callable[..., tuple[str, str]],
) -> None:
    state, detail = finding("http://127.0.0.1:9")
    assert state == "absent"
    assert "start it: ollama serve" in detail


def test_a_missing_model_is_told_with_the_command_that_gets_it(finding: Callable[..., tuple[str, str]]) -> None:
    with FakeOllama(model="phi3:mini") as server:
        state, detail = finding(server.url)
    assert state == "no model"
    assert detail.endswith("get it: ollama pull llama3")
    assert "it has: phi3:mini" in detail


def test_a_moved_digest_is_told_with_the_way_to_accept_it(finding: Callable[..., tuple[str, str]]) -> None:
    with FakeOllama() as server:
        assert finding(server.url, "--judge-model", f"llama3@{server.model_digest[:12]}")[0] == "ok"
        state, detail = finding(server.url, "--judge-model", "llama3@0123456789ab")
    assert state == "changed"
    assert f"--judge-model llama3:latest@{server.model_digest[:12]}" in detail


def test_too_small_a_context_is_told_with_the_setting_that_fits(finding: Callable[..., tuple[str, str]]) -> None:
    with FakeOllama(context_length=4096) as server:
        state, detail = finding(server.url)
    assert state == "unfit"
    assert "set num_ctx to 4096 or less" in detail


def test_a_thinking_model_is_told_with_one_that_does_not_think(finding: Callable[..., tuple[str, str]]) -> None:
    with FakeOllama(capabilities=("completion", "thinking")) as server:
        state, detail = finding(server.url)
    assert state == "thinks"
    assert detail.endswith("ollama pull llama3")


def test_a_model_that_cannot_chat_is_unfit(finding: Callable[..., tuple[str, str]]) -> None:
    with FakeOllama(capabilities=("embedding",)) as server:
        state, detail = finding(server.url)
    assert state == "unfit"
    assert "choose a chat model, such as llama3" in detail
