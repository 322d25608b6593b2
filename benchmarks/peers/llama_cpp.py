"""llama.cpp as it decodes by default, in the server of the wheel ``xllamacpp``: greedy, a slot for every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import httpx
import torch

from benchmarks.measured import Measured, timed_steps
from benchmarks.options import Options
from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.export.every import Packing
from gptcore.export.gguf import export_gguf
from gptcore.models import GPT
from gptcore.tokenizer import gpt2_tokenizer


def measure_llama_cpp(
    options: Options, folder: Path, model: GPT, prompts: Sequence[Sequence[int]], *, n_new: int, packing: Packing
) -> Measured:
    """All prompts asked at once, each continued by exactly ``n_new`` tokens.

    Args:
        options: of the sitting.
        folder: gets the model as a checkpoint and as GGUF.
        model: of GPT-2's vocabulary; llama.cpp runs its GGUF.
        prompts: token ids.
        n_new: tokens of each answer.
        packing: of the GGUF's matrices.
    """
    import xllamacpp

    tokenizer = gpt2_tokenizer()
    checkpoint.save(
        folder / "model",
        model=model,
        spec=ModelSpec(model.config, tokenizer_digest=tokenizer.digest),
        tokenizer=tokenizer,
    )
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(export_gguf(folder / "model", folder / "gguf", packing=packing).file)
    parameters.n_parallel, parameters.n_gpu_layers, parameters.fit_params = len(prompts), 0, False
    parameters.n_ctx = len(prompts) * (max(map(len, prompts)) + n_new)
    n_threads = torch.get_num_threads()
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = n_threads
    server = xllamacpp.Server(parameters)

    def answer(prompt: Sequence[int]) -> int:
        asked = {"prompt": list(prompt), "n_predict": n_new, "temperature": 0.0, "ignore_eos": True}
        told = httpx.post(
            f"{server.listening_address}/completion",
            json={**asked, "cache_prompt": False, "return_tokens": True},
            timeout=600,
            trust_env=False,
        )
        return len(told.raise_for_status().json()["tokens"])

    with ThreadPoolExecutor(len(prompts)) as clients:

        def step(number: int) -> float:
            del number
            return float(sum(clients.map(answer, prompts)))

        facts = {"xllamacpp": version("xllamacpp"), "packing": packing, "threads": n_threads}
        return timed_steps(step, warmup=options.warmup, n_steps=options.steps, facts=facts)
