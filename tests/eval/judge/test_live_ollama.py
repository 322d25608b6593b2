"""What the judge relies on, asked of a real Ollama server; skipped where none answers.

The model is the one that GPTWORKS_JUDGE_MODEL names, or llama3.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from eval.errors import JudgeModelMissing
from eval.judge.assemble import ollama_judge
from eval.judge.client import CallFailed
from eval.judge.ollama import OllamaClient, Options
from eval.judge.pointwise import PointwiseJudge
from eval.judge.preflight import preflight
from eval.judge.schema import VERDICT_SCHEMA
from eval.types import Sample

pytestmark = pytest.mark.ollama
SAMPLE = Sample("x", "Name the capital of France.", "", "The capital of France is Paris.")


def model() -> str:
    return os.environ.get("GPTWORKS_JUDGE_MODEL", "llama3")


@pytest.fixture(scope="module")
def judge() -> Iterator[PointwiseJudge]:
    try:
        preflight(None, model(), options=Options(num_ctx=2048))
    except JudgeModelMissing as error:
        pytest.skip(str(error))
    with ollama_judge(None, model(), options=Options(num_ctx=2048)) as (found, _):
        yield found


def test_a_live_judge_scores_in_the_wanted_form(judge: PointwiseJudge) -> None:
    verdict = judge(SAMPLE, "It is Paris.")
    assert verdict.reason is None, verdict.detail
    assert verdict.rationale
    assert "score_first" not in verdict.flags


def test_a_live_judge_prefers_a_right_answer_to_gibberish(judge: PointwiseJudge) -> None:
    right, wrong = judge(SAMPLE, "It is Paris."), judge(SAMPLE, "qwx zzt plm")
    assert right.score is not None
    assert wrong.score is not None
    assert right.score > wrong.score


def test_a_live_server_does_not_cut_a_long_prompt_unnoticed(judge: PointwiseJudge) -> None:
    options = Options(num_ctx=512, num_predict=16)
    client = OllamaClient(preflight(None, model(), options=options), options=options)
    with pytest.raises(CallFailed) as failure:
        client.chat([{"role": "user", "content": "word " * 800}], schema=VERDICT_SCHEMA)
    client.close()
    assert failure.value.reason == "truncated"
