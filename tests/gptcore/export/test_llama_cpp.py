"""Our GGUF files in a real llama.cpp (the wheel ``xllamacpp``): the same tokens in, the same greedy tokens out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.data.templates import template_by_name
from gptcore.export.every import Packing
from gptcore.export.gguf import export_gguf
from gptcore.export.gguf_file import read_gguf
from gptcore.export.gguf_graph import gguf_logits
from gptcore.export.gguf_tokens import PROBES
from gptcore.generation import Generator, Request, Sampling
from gptcore.models import GPTConfig
from gptcore.tokenizer import gpt2_tokenizer

Build = Callable[..., Path]
SIZES = [
    ("gpt2", {}),
    ("gpt2", {"tied_head": False, "qkv_bias": False}),
    ("llama", {}),
    ("llama", {"n_kv_heads": 2, "tied_head": False, "hidden_width": 96}),
    ("llama", {"n_kv_heads": 1, "rope_base": 500.0}),
]


class LlamaCpp:
    """llama.cpp with a model in it."""

    def __init__(self, file: Path, *, context_length: int) -> None:
        xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp: pip install -c constraints.txt -e '.[test]'")
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx, parameters.n_parallel = context_length, 1
        parameters.cpuparams.n_threads, parameters.cpuparams_batch.n_threads = 1, 1
        parameters.warmup, parameters.fit_params, parameters.n_gpu_layers = False, False, 0
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self._server = xllamacpp.Server(parameters)

    def greedy(self, prompt: Sequence[int], n: int) -> tuple[list[int], list[tuple[int, float]]]:
        """The next tokens; and tokens with their log-probabilities, of those that leave no character half told."""
        asked = {"prompt": list(prompt), "n_predict": n, "temperature": 0.0, "n_probs": 1, "ignore_eos": True}
        told = self._ask("completion", {**asked, "return_tokens": True, "cache_prompt": False})
        return told["tokens"], [(step["id"], step["logprob"]) for step in told["completion_probabilities"]]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """llama.cpp's tokens of a text."""
        ids: list[int] = self._ask("tokenize", {"content": text, "parse_special": special})["tokens"]
        return ids

    def applied(self, messages: list[dict[str, str]]) -> str:
        """The prompt that llama.cpp makes of a conversation."""
        return str(self._ask("apply-template", {"messages": messages})["prompt"])

    @property
    def end_token(self) -> str:
        """The token at which llama.cpp ends an answer."""
        return str(httpx.get(f"{self._server.listening_address}/props", timeout=60).json()["eos_token"])

    def _ask(self, page: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self._server.listening_address}/{page}", json=body, timeout=60)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told


@pytest.mark.parametrize(("family", "sizes"), SIZES)
def test_llama_cpp_gives_the_same_greedy_tokens(
    portable: Build, tmp_path: Path, family: str, sizes: dict[str, Any]
) -> None:
    source = portable(family, **sizes)
    written = export_gguf(source, tmp_path / "gguf", packing="f32")
    loaded = checkpoint.load(source)
    llama_cpp = LlamaCpp(written.file, context_length=48)
    for text in ("The keeper of the light", "\n", "They"):
        prompt = loaded.tokenizer.encode(text)
        (ours,) = Generator(loaded.model).generate([Request(prompt, Sampling(max_new_tokens=30))])
        assert llama_cpp.greedy(prompt, 30)[0] == ours.ids


@pytest.mark.parametrize(
    ("family", "packing"),
    [*(("gpt2", packing) for packing in get_args(Packing)), ("llama", "f16"), ("llama", "q8_0"), ("llama", "q4_0")],
)
def test_llama_cpp_reads_each_packing_as_we_do(portable: Build, tmp_path: Path, family: str, packing: Packing) -> None:
    """Step by step over its own tokens; it rounds activations to 8 bits before products with packed matrices."""
    sizes = {"n_kv_heads": 2} if family == "llama" else {"qkv_bias": False}
    written = export_gguf(portable(family, **sizes, tied_head=False), tmp_path / "gguf", packing=packing)
    prompt = [10, 200, 30, 270, 5]
    tokens, told = LlamaCpp(written.file, context_length=48).greedy(prompt, 30)
    logits = gguf_logits(read_gguf(written.file), [*prompt, *tokens[:-1]])[len(prompt) - 1 :].log_softmax(-1)
    close = 0.02 if packing in ("f32", "f16", "bf16") else 0.4
    chosen = torch.tensor(tokens)[:, None]
    assert float((logits.max(1).values - logits.gather(1, chosen)[:, 0]).max()) <= close
    assert len(told) > 15
    steps = iter(zip(tokens, logits, strict=True))
    for token, logprob in told:
        row = next(row for made, row in steps if made == token)
        assert logprob == pytest.approx(float(row[token]), abs=close)


def test_llama_cpp_splits_texts_as_the_tokenizer_does(
    portable: Build, tmp_path: Path, gpt2_cache: Path, page: str
) -> None:
    own = portable(template="short")
    source = tmp_path / "with-gpt-2s-words"
    known = gpt2_tokenizer()
    config = GPTConfig(vocab_size=known.vocab_size + 47, context_length=16, width=32, n_layers=1, n_heads=1)
    spec = ModelSpec(config, tokenizer_digest=known.digest)
    checkpoint.save(source, model=config.build(), spec=spec, tokenizer=known)
    for place in (own, source):
        tokenizer = checkpoint.load(place).tokenizer
        llama_cpp = LlamaCpp(export_gguf(place, tmp_path / "gguf").file, context_length=16)
        for text in (*PROBES, page, "1234567 can't I'LL\t \u3000x"):
            assert llama_cpp.encode(text) == tokenizer.encode(text), text


def test_llama_cpp_stops_where_the_prompt_style_does_and_renders_it(portable: Build, tmp_path: Path) -> None:
    source = portable(template="chatml", words=template_by_name("chatml").special_tokens, context_length=64)
    llama_cpp = LlamaCpp(export_gguf(source, tmp_path / "gguf").file, context_length=64)
    told = llama_cpp.applied([{"role": "user", "content": "Count the ships."}])
    assert told == template_by_name("chatml").render_prompt("Count the ships.")
    tokenizer = checkpoint.load(source).tokenizer
    assert llama_cpp.encode(told, special=True) == template_by_name("chatml").encode_prompt(
        "Count the ships.", tokenizer=tokenizer
    )
    assert llama_cpp.end_token == "<|im_end|>"
