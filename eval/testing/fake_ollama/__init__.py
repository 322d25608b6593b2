"""An Ollama server without a model: the real protocol over a real socket, scripted answers.

It answers /api/version, /api/tags, /api/ps, /api/show and /api/chat (streamed and whole), and /v1/models and
/v1/chat/completions as OpenAI does, in the server's forms; /api/blobs and /api/create keep the models that clients
make, which are shown and cannot be run. It refuses what the server refuses (unknown models, prompts
longer than the window with ``shift`` off, ``think`` on models that cannot) and misbehaves on demand, one scenario per
request:

    with FakeOllama(scenario="busy") as fake:
        client = ollama.Client(fake.url)

By hand: ``gptworks fake-ollama``.
"""

from eval.testing.fake_ollama.answers import ChatCall, score_overlap
from eval.testing.fake_ollama.scenarios import SCENARIOS, Scenario
from eval.testing.fake_ollama.serve import serve
from eval.testing.fake_ollama.server import FakeOllama

__all__ = ["SCENARIOS", "ChatCall", "FakeOllama", "Scenario", "score_overlap", "serve"]
