"""A language model as judge: one answer at a time, against its reference, 0 to 100."""

from eval.judge.assemble import ollama_judge
from eval.judge.client import CallFailed, ChatClient, JudgeModel, Message, Reply
from eval.judge.ollama import Deadlines, OllamaClient, Options
from eval.judge.pointwise import PointwiseJudge
from eval.judge.preflight import preflight
from eval.judge.store import AnswerStore, CachedClient

__all__ = [
    "AnswerStore",
    "CachedClient",
    "CallFailed",
    "ChatClient",
    "Deadlines",
    "JudgeModel",
    "Message",
    "OllamaClient",
    "Options",
    "PointwiseJudge",
    "Reply",
    "ollama_judge",
    "preflight",
]
