"""What is asked of a judge before the first item: is a prompt that is too long noticed, and is the form obeyed?

Both are asked once for each instrument: what was found is kept in the store of answers beside them.
"""

from __future__ import annotations

from typing import Final

from eval.errors import EvalConfigError, JudgeUnavailable
from eval.judge.client import CallFailed, ChatClient, JudgeModel, Message, Options, Reply
from eval.judge.exchange import ask
from eval.judge.prompt import load_prompts, render
from eval.judge.schema import POINTWISE
from eval.judge.store import AnswerStore, compute_request_key
from eval.types import Sample

_WORD: Final = "word "
"""One token in every vocabulary, with its blank."""
_CANARY: Final[dict[str, str | int]] = {"mode": "canary"}
_TRIVIAL: Final = Sample("form", "Name the capital of France.", "", "Paris.")


def check_canary(client: ChatClient, *, options: Options, store: AnswerStore | None) -> None:
    """Send a prompt that is longer than the window: it has to be refused, or to be noticed as cut.

    Raises:
        EvalConfigError: the server read a part of it, answered, and nothing shows that there was more.
        JudgeUnavailable: it could not be asked.
    """
    messages: list[Message] = [{"role": "user", "content": _WORD * options.num_ctx}]
    key = compute_request_key(describe=client.describe(), schema=POINTWISE.schema, messages=messages, identity=_CANARY)
    if store is not None and store.find(key) is not None:
        return
    try:
        reply = client.chat(messages, schema=POINTWISE.schema, identity=_CANARY)
    except CallFailed as failure:
        if failure.reason != "truncated":
            raise JudgeUnavailable(
                f"the judge could not be asked whether it cuts long prompts ({failure}); see what its server says, and"
                " run again"
            ) from failure
        found = Reply(failure.detail, None, None, done=True, done_reason="stop", seconds=0.0)
    else:
        if (reply.prompt_tokens or 0) < options.num_ctx:
            raise EvalConfigError(
                f"a prompt of {options.num_ctx} words was answered although the server read only {reply.prompt_tokens}"
                " tokens of it: long items would be judged by a part of their prompt. Update the server (Ollama refuses"
                f" such prompts since 0.12.6), or set num_ctx to the window it has ({options.num_ctx} is wanted)"
            )
        found = reply  # its window is larger than ours
    if store is not None:
        store.settle(key, found, identity=_CANARY)


def check_form(client: ChatClient, judge: JudgeModel) -> None:
    """Put a trivial question to a model that thinks: some servers drop the wanted form with the thinking.

    Raises EvalConfigError if the output cannot be read.
    """
    prompts = load_prompts("pointwise")
    rendered = render(prompts, sample=_TRIVIAL, answers={"answer": "It is Paris."}, max_answer_bytes=3000)
    found = ask(client, rendered, prompts=prompts, form=POINTWISE, repeat=0)
    if found.reason is not None:
        raise EvalConfigError(
            f"{judge.model} thinks before it answers and does not keep to the wanted form with thinking off"
            f" ({found.reason}: {found.detail}); choose a judge that does not think: ollama pull llama3"
        )
