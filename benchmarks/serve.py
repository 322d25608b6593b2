"""Serving under load: many clients at once for a minute, over HTTP, each asking again as soon as it has its answer.

    python -m benchmarks.serve --clients 32 --seconds 60

The server is ``gptworks serve`` in a process of its own, of a model with random weights; the clients stream chat
answers of ragged prompts by httpx. The figures are the clients': tokens a second of all, time to the first piece of
text, time between two pieces.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.machine import commit, machine
from benchmarks.options import ROOT, positive

WORDS = [
    "the",
    "keeper",
    "counted",
    "ships",
    "in",
    "fog",
    "and",
    "wrote",
    "their",
    "number",
    "down",
    "while",
    "a",
    "cat",
    "looked",
    "out",
    "at",
    "sea",
]


@dataclass
class Seen:
    """What all clients have seen."""

    first: list[float] = field(default_factory=list)
    """Seconds from each request to its first piece of text."""
    between: list[float] = field(default_factory=list)
    """Seconds between two pieces of an answer."""
    n_tokens: int = 0
    n_answers: int = 0
    errors: list[str] = field(default_factory=list)


def percentiles(values: Sequence[float]) -> str:
    """The 50th, 95th and 99th in milliseconds."""
    ordered = sorted(values)
    found = {p: ordered[min(len(ordered) - 1, p * len(ordered) // 100)] for p in (50, 95, 99)} if ordered else {}
    return ", ".join(f"p{p} {1000 * value:.0f} ms" for p, value in found.items())


async def client(url: str, number: int, ends: float, max_tokens: int, seen: Seen) -> None:
    """Ask until the time is over; an answer that was begun is waited for."""
    draws = random.Random(number)
    async with httpx.AsyncClient(timeout=120) as http:
        while time.monotonic() < ends:
            message = " ".join(draws.choices(WORDS, k=draws.randint(4, 40)))
            body = {
                "model": "gptworks",
                "messages": [{"role": "user", "content": message}],
                "stream": True,
                "stream_options": {"include_usage": True},
                "max_tokens": draws.randint(max_tokens // 2, max_tokens),
                "temperature": 0.8,
                "top_k": 50,
                "seed": draws.randint(0, 10**6),
            }
            try:
                await _ask(http, f"{url}/v1/chat/completions", body, seen)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                seen.errors.append(f"{type(error).__name__}: {error}")


async def _ask(http: httpx.AsyncClient, url: str, body: dict[str, object], seen: Seen) -> None:
    last, is_first = time.monotonic(), True
    async with http.stream("POST", url, json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event.get("usage"):
                seen.n_tokens += event["usage"]["completion_tokens"]
                seen.n_answers += 1
            elif event["choices"][0]["delta"].get("content"):
                now = time.monotonic()
                (seen.first if is_first else seen.between).append(now - last)
                last, is_first = now, False


@contextmanager
def server(folder: Path, *, size: str, slots: int) -> Iterator[str]:
    """The address of a server of a model with random weights."""
    make = (
        "import sys, torch; from pathlib import Path; from benchmarks.prepare import book_tokenizer\n"
        "from gptcore import checkpoint; from gptcore.checkpoint import ModelSpec; from gptcore.models import PRESETS\n"
        "from dataclasses import replace; folder = Path(sys.argv[1]); tokenizer = book_tokenizer(folder)\n"
        "config = replace(PRESETS[sys.argv[2]], vocab_size=tokenizer.vocab_size); torch.manual_seed(0)\n"
        "spec = ModelSpec(config, template='alpaca', tokenizer_digest=tokenizer.digest)\n"
        "checkpoint.save(folder / 'checkpoint', model=config.build(), spec=spec, tokenizer=tokenizer)\n"
    )
    subprocess.run([sys.executable, "-c", make, str(folder), size], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "flows", "serve", str(folder / "checkpoint"), "--port", "0", "--slots", str(slots)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            told = process.stdout.readline() + process.stdout.readline()
            found = re.search(r"http://\S+:\d+", told)
            if found is None:
                raise RuntimeError(f"the server did not start: {told!r}")
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)


async def load(url: str, *, clients: int, seconds: float, max_tokens: int) -> tuple[Seen, float]:
    """What the clients see, and how long it took until the last of them had its answer."""
    seen, started = Seen(), time.monotonic()
    ends = started + seconds
    await asyncio.gather(*(client(url, number, ends, max_tokens, seen) for number in range(clients)))
    return seen, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=positive, default=32)
    parser.add_argument("--seconds", type=positive, default=60)
    parser.add_argument("--slots", type=positive, default=32)
    parser.add_argument("--max-tokens", type=positive, default=64, help="answers have half of it to all of it")
    parser.add_argument("--size", default="micro", help="a preset of gptcore.models (default: micro)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="gptworks-bench-serve-") as folder,
        server(Path(folder), size=options.size, slots=options.slots) as url,
    ):
        wanted = {"clients": options.clients, "seconds": options.seconds, "max_tokens": options.max_tokens}
        seen, seconds = asyncio.run(load(url, **wanted))
    sys.stdout.write(
        f"{options.size}, {options.clients} clients, {options.slots} slots, {seconds:.0f} s\n"
        f"answers {seen.n_answers}, errors {len(seen.errors)}, tokens/s {seen.n_tokens / seconds:.0f}\n"
        f"time to first token: {percentiles(seen.first)}\nbetween tokens: {percentiles(seen.between)}\n"
        f"{machine()}; commit {commit()}\n"
    )
    if seen.errors:
        raise SystemExit("\n".join(sorted(set(seen.errors))[:10]))


if __name__ == "__main__":
    main()
