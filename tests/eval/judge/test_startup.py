"""Before the first item: a silent cut is found out, a thinking model is tried, and both are asked once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eval.errors import EvalConfigError, JudgeUnavailable, StoreError
from eval.judge.assemble import JudgeSpec, open_judge, open_panel
from eval.judge.client import CallFailed, ChatClient, Deadlines, Options, Reply
from eval.judge.ollama import OllamaClient
from eval.judge.startup import check_canary
from eval.judge.store import AnswerStore
from eval.testing.fake_ollama import ChatCall, FakeOllama, Scenario
from eval.types import Sample

Connect = Callable[..., OllamaClient]
SAMPLE = Sample("x", "Say", "", "one two")


class Counting:
    """A backend without a server that reads so many tokens of every prompt, and says nothing of the rest."""

    def __init__(self, read: int | None, failure: CallFailed | None = None) -> None:
        self.read, self.failure = read, failure

    def chat(self, messages: object, *, schema: object, identity: object = None) -> Reply:  # noqa: ARG002
        if self.failure is not None:
            raise self.failure
        return Reply("{}", self.read, 1, True, "stop", 0.1)

    def describe(self) -> dict[str, str]:
        return {"backend": "counting"}

    def verify(self) -> None:
        """Always the same."""


@pytest.mark.parametrize("backend", ["ollama", "openai"])
@pytest.mark.parametrize("scenario", ["score", "truncated"])
def test_a_server_that_refuses_or_is_caught_cutting_may_judge(backend: str, scenario: Scenario, tmp_path: Path) -> None:
    def choose(call: ChatCall) -> Scenario:
        return "score" if call.texts else scenario

    with FakeOllama(scenario=choose) as fake:
        host = fake.url if backend == "ollama" else f"{fake.url}/v1"
        spec = JudgeSpec("llama3:latest", host, backend)  # type: ignore[arg-type]
        for _ in range(2):
            with open_judge(spec, store=tmp_path / "a.jsonl") as opened:
                assert opened.build_pointwise()(SAMPLE, "one").score == 67
    assert [bool(call.texts) for call in fake.calls] == [False, True]


def test_the_canary_is_asked_anew_of_another_window(tmp_path: Path) -> None:
    with FakeOllama() as fake:
        for num_ctx in (8192, 4096, 8192):
            with open_judge(JudgeSpec(host=fake.url, options=Options(num_ctx=num_ctx)), store=tmp_path / "a.jsonl"):
                pass
    assert len(fake.calls) == 2


def test_a_silent_cut_that_nothing_shows_is_refused() -> None:
    client: ChatClient = Counting(6000)
    with pytest.raises(EvalConfigError, match=r"a prompt of 8192 words was answered .* only 6000 tokens.* 0\.12\.6"):
        check_canary(client, options=Options(), store=None)
    check_canary(Counting(9000), options=Options(), store=None)  # its window is larger than ours
    check_canary(Counting(0, CallFailed("truncated", "too long", transient=False)), options=Options(), store=None)


def test_a_judge_that_cannot_be_asked_ends_the_run_before_it_begins() -> None:
    with (
        FakeOllama(scenario="server_error") as fake,
        pytest.raises(JudgeUnavailable, match=r"cuts long prompts \(http_5xx: 500: llama runner process"),
        open_judge(JudgeSpec(host=fake.url)),
    ):
        pass


def test_a_thinking_model_has_to_show_that_it_keeps_to_the_form() -> None:
    capable = ("completion", "thinking")
    with FakeOllama(capabilities=capable) as fake, open_judge(JudgeSpec(host=fake.url)) as opened:
        assert opened.build_pointwise()(SAMPLE, "one").score == 67
        assert all(call.body["think"] is False for call in fake.calls)
    with (
        FakeOllama(capabilities=capable, scenario="thinking_only") as fake,
        pytest.raises(EvalConfigError, match=r"thinks before .* \(empty: .*\); choose .* ollama pull llama3"),
        open_judge(JudgeSpec(host=fake.url)),
    ):
        pass


def test_a_panel_shares_one_store_and_refuses_a_judge_named_twice(tmp_path: Path) -> None:
    with FakeOllama() as one, FakeOllama(model="phi3:mini", model_digest="a" * 64, score=lambda *_: 12) as other:
        specs = [JudgeSpec(host=one.url), JudgeSpec("phi3:mini", other.url)]
        for _ in range(2):
            with open_panel(specs, store=tmp_path / "a.jsonl") as judges:
                assert [judge.build_pointwise()(SAMPLE, "one").score for judge in judges] == [67, 12]
                with pytest.raises(StoreError, match="another process is writing"):
                    AnswerStore(tmp_path / "a.jsonl")
        assert (len(one.questions), len(other.questions)) == (1, 1)
        for wrong in ([], [specs[0], specs[0]]):
            with pytest.raises(EvalConfigError, match="name each once"), open_panel(wrong):
                pass


def test_the_deadlines_of_a_judge_are_those_of_its_spec() -> None:
    deadlines = Deadlines(read=0.2, idle=0.2, total=0.5)
    with (
        FakeOllama(scenario=lambda call: "slow" if call.texts else "score") as fake,
        open_judge(JudgeSpec(host=fake.url, deadlines=deadlines)) as opened,
    ):
        verdict = opened.build_pointwise()(SAMPLE, "one")
    assert verdict.reason == "timeout"
