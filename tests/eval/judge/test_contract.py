"""What the judge relies on: asked of the fake server, and in the same words of a real one where OLLAMA_HOST answers.

The real model is the one that GPTWORKS_JUDGE_MODEL names, or llama3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx
import ollama
import pytest

from eval.errors import JudgeModelMissing
from eval.judge.assemble import JudgeSession, JudgeSpec, open_judge
from eval.judge.client import CallFailed, Options
from eval.judge.ollama import OllamaClient
from eval.judge.preflight import preflight_ollama
from eval.judge.schema import POINTWISE
from eval.testing.fake_ollama import FakeOllama
from eval.types import Sample

OPTIONS = Options(num_ctx=2048)
SAMPLE = Sample("x", "Name the capital of France.", "", "The capital of France is Paris.")
HELLO = [{"role": "user", "content": "Say hello as JSON."}]
LONG = [{"role": "user", "content": "word " * 4000}]


class Server:
    """A server that answers, with a client of its own."""

    def __init__(self, url: str | None, model: str) -> None:
        self.url, self.model = url, model
        self.client = ollama.Client(url)

    @property
    def http(self) -> httpx.Client:
        """Plain HTTP to the same server."""
        client: httpx.Client = self.client._client
        return client


@pytest.fixture(scope="module", params=["fake", pytest.param("live", marks=pytest.mark.ollama)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "fake":
        with FakeOllama() as fake:
            found = Server(fake.url, "llama3")
            yield found
            found.client.close()
        return
    found = Server(None, os.environ.get("GPTWORKS_JUDGE_MODEL", "llama3"))
    try:
        preflight_ollama(None, found.model, options=OPTIONS)
    except JudgeModelMissing as error:
        pytest.skip(str(error))
    yield found
    found.client.close()


@pytest.fixture(scope="module")
def judge(server: Server) -> Iterator[JudgeSession]:
    with open_judge(JudgeSpec(server.model, server.url, options=OPTIONS)) as opened:
        yield opened


def options() -> dict[str, float]:
    return {"num_ctx": 2048, "num_predict": 64, "temperature": 0.0, "seed": 1}


def test_the_server_tells_its_version_and_the_models_digest(server: Server) -> None:
    assert server.http.get("/api/version").json()["version"]
    listed = {model.model: model for model in server.client.list().models}
    tag = server.model if ":" in server.model else f"{server.model}:latest"
    assert len(listed[tag].digest or "") == 64
    shown = server.client.show(server.model)
    assert "completion" in (shown.capabilities or ())
    assert shown.details is not None
    assert shown.details.quantization_level
    architecture = (shown.modelinfo or {})["general.architecture"]
    assert (shown.modelinfo or {})[f"{architecture}.context_length"] >= 2048


def test_a_request_without_messages_loads_the_model_with_the_window_that_is_asked_for(server: Server) -> None:
    answer = server.client.chat(server.model, [], options=options())
    assert (answer.done, answer.done_reason, answer.message.content) == (True, "load", "")
    running = server.client.ps().models
    digests = {model.digest: model for model in server.client.list().models}
    assert any(one.digest in digests and (one.context_length or 0) >= 2048 for one in running)


def test_streamed_and_whole_answers_have_the_same_shape(server: Server) -> None:
    asked = {"model": server.model, "messages": HELLO, "format": dict(POINTWISE.schema), "options": options()}
    whole = server.client.chat(**asked)
    parts = list(server.client.chat(**asked, stream=True))
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].done_reason == whole.done_reason == "stop"
    assert (parts[-1].prompt_eval_count or 0) > 0
    assert (parts[-1].eval_count or 0) > 0
    for text in (whole.message.content or "", "".join(part.message.content or "" for part in parts)):
        assert json.loads(text).keys() == {"rationale", "score"}


def test_log_probabilities_come_with_the_tokens_of_a_formatted_answer(server: Server) -> None:
    answer = server.client.chat(
        server.model, HELLO, format=dict(POINTWISE.schema), options=options(), logprobs=True, top_logprobs=20
    )
    assert answer.logprobs, "servers give log-probabilities since 0.12.11"
    assert answer.message.content is not None
    assert answer.message.content.strip() in "".join(one.token for one in answer.logprobs)
    assert all(one.logprob <= 1e-3 for one in answer.logprobs)
    assert all(len(one.top_logprobs or ()) <= 20 for one in answer.logprobs)


def test_a_prompt_that_is_too_long_is_refused_if_it_may_not_be_cut(server: Server) -> None:
    body = {"model": server.model, "messages": LONG, "options": options(), "stream": True}
    refused = server.http.post("/api/chat", json={**body, "shift": False, "truncate": False}, timeout=120)
    assert refused.status_code == 400, "servers know shift and truncate since 0.12.6"
    assert "context length" in refused.json()["error"]


def test_an_unknown_model_is_refused_with_the_words_that_mend_it(server: Server) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as error:
        server.client.chat("no-such-model", HELLO)
    assert error.value.status_code == 404
    with pytest.raises(JudgeModelMissing, match="ollama pull no-such-model"):
        preflight_ollama(server.url, "no-such-model")


def test_thinking_is_refused_by_a_model_that_cannot(server: Server) -> None:
    if "thinking" in (server.client.show(server.model).capabilities or ()):
        pytest.skip(f"{server.model} can think")
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as error:
        server.client.chat(server.model, HELLO, think=True)
    assert error.value.status_code == 400


def test_the_openai_interface_gives_the_same_model(server: Server) -> None:
    tag = server.model if ":" in server.model else f"{server.model}:latest"
    assert tag in {one["id"] for one in server.http.get("/v1/models").json()["data"]}
    url = f"{server.http.base_url}".rstrip("/") + "/v1"
    with open_judge(JudgeSpec(tag, url, "openai", options=Options(num_ctx=8192))) as opened:
        verdict = opened.build_pointwise()(SAMPLE, "It is Paris.")
    assert verdict.reason is None, verdict.detail


def test_the_judge_scores_in_the_wanted_form_and_order(judge: JudgeSession) -> None:
    verdict = judge.build_pointwise()(SAMPLE, "It is Paris.")
    assert verdict.reason is None, verdict.detail
    assert verdict.rationale
    assert "score_first" not in verdict.flags
    assert verdict.valid_mass is None or 0 <= verdict.valid_mass <= 1
    assert verdict.weighted is None or 0 <= verdict.weighted <= 100


def test_the_judge_prefers_a_right_answer_to_gibberish(judge: JudgeSession) -> None:
    right, wrong = (judge.build_pointwise()(SAMPLE, answer) for answer in ("It is Paris, the capital.", "qwx zzt plm"))
    assert right.score is not None
    assert wrong.score is not None
    assert right.score > wrong.score
    compared = judge.build_pairwise()(SAMPLE, "It is Paris, the capital.", "qwx zzt plm")
    assert compared.reason is None, compared.detail


def test_a_prompt_is_not_cut_unnoticed(server: Server) -> None:
    small = Options(num_ctx=512, num_predict=16)
    client = OllamaClient(preflight_ollama(server.url, server.model, options=small), options=small)
    with pytest.raises(CallFailed) as failure:
        client.chat([{"role": "user", "content": "word " * 800}], schema=POINTWISE.schema)
    client.close()
    assert failure.value.reason == "truncated"
