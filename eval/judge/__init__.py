"""A language model as judge: one answer against its reference, 0 to 100, or two against each other, in both orders."""

from eval.judge.assemble import JudgeSession, JudgeSpec, open_judge, open_ollama_judge, open_panel
from eval.judge.client import CallFailed, ChatClient, Deadlines, JudgeModel, Message, Options, Reply, Retry
from eval.judge.ollama import OllamaClient
from eval.judge.openai import OpenAIClient
from eval.judge.pairwise import PairwiseJudge
from eval.judge.pointwise import PointwiseJudge
from eval.judge.preflight import preflight_ollama, preflight_openai
from eval.judge.store import AnswerStore, CachedClient

__all__ = [
    "AnswerStore",
    "CachedClient",
    "CallFailed",
    "ChatClient",
    "Deadlines",
    "JudgeModel",
    "JudgeSession",
    "JudgeSpec",
    "Message",
    "OllamaClient",
    "OpenAIClient",
    "Options",
    "PairwiseJudge",
    "PointwiseJudge",
    "Reply",
    "Retry",
    "open_judge",
    "open_ollama_judge",
    "open_panel",
    "preflight_ollama",
    "preflight_openai",
]
