"""Inference of GPT-2 124M: tokens/s of one prompt, of 32 ragged prompts, and rows/s of a classifier.

python -m benchmarks.decode --what batch-1     # 64 tokens of prompt, 128 new ones
python -m benchmarks.decode --what batch-32    # 32 prompts of 8 to 64 tokens, 64 new ones each
python -m benchmarks.decode --what classify    # 16 rows of 64 tokens

Random weights and tokens, greedy, prompts included in the time. Ours is the ``Generator`` that serves, over a model
that ``prepare_for_inference`` has prepared, as ``TextModel.load`` does.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from benchmarks.measured import Measured, timed_steps
from benchmarks.options import Options, shared_parser
from benchmarks.sitting import main
from benchmarks.work import Implementation, Target, Work

if TYPE_CHECKING:
    from gptcore.export.every import Packing
    from gptcore.models import GPT

VOCABULARY = 50_257
Kind = Literal["fp32", "int8", "int4"]
_PACKINGS: tuple[Packing, ...] = ("f32", "f16", "q8_0", "q4_0")


class Size(NamedTuple):
    """Prompts and answers of one step."""

    n_prompts: int
    shortest: int
    longest: int
    n_new: int


_SIZES = {"batch-1": Size(1, 64, 64, 128), "batch-32": Size(32, 8, 64, 64), "classify": Size(16, 64, 64, 0)}
_TITLES = {
    "batch-1": "Decoding: GPT-2 124M, one prompt of 64 tokens, 128 new ones",
    "batch-32": "Decoding: GPT-2 124M, 32 prompts of 8 to 64 tokens, 64 new ones each",
    "classify": "Classification: GPT-2 124M, 16 rows of 64 tokens",
}
_TARGETS = {
    "batch-1": (
        Target("figure", 1.6, "transformers", ours="fp32"),
        Target("figure", 3.5, "transformers", ours="int8"),
        Target("figure", 4.0, "transformers", ours="int4"),
    ),
    "batch-32": (
        Target("figure", 2.0, "transformers", ours="fp32"),
        Target("figure", 2.0, "transformers", ours="int8-narrow"),
    ),
    "classify": (Target("figure", 1.5, "fp32", ours="int8-narrow"),),
}


def size_of(options: Options) -> Size:
    """Prompts and answers; a few tokens in a smoke run."""
    size = _SIZES[options.what]
    return Size(min(3, size.n_prompts), 3, 5, min(4, size.n_new)) if options.smoke else size


def prompts_of(options: Options) -> list[list[int]]:
    """The same random prompts for all."""
    size, draws = size_of(options), random.Random(options.seed)
    lengths = [draws.randint(size.shortest, size.longest) for _ in range(size.n_prompts)]
    return [[draws.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


def build(options: Options) -> Work:
    """The work for these options."""
    classify = options.what == "classify"
    measure = measure_classifier if classify else measure_generator

    def ours(name: str, what: str, kind: Kind, **how: bool) -> Implementation:
        return Implementation(name, what, functools.partial(measure, kind=kind, **how))

    peer = Implementation(
        "transformers",
        "GPT2LMHeadModel.generate, sdpa, its cache, padding on the left",
        _transformers,
        ("transformers",),
    )

    def llama_cpp(packing: Packing) -> Implementation:
        measure_peer = functools.partial(_llama_cpp, packing=packing)
        return Implementation(
            f"llama.cpp-{packing}", f"its server, GGUF {packing.upper()}", measure_peer, ("xllamacpp",)
        )

    plain = ours("fp32-torch", "torch's own products", "fp32", prepared=False)
    return Work(
        name=f"decode-{options.what}",
        title=_TITLES[options.what],
        unit="rows/s" if classify else "tokens/s",
        figure=lambda measured: measured.median_rate,
        implementations=(
            ours("fp32", "kernels, where they are the faster", "fp32"),
            *(() if classify else (plain,)),
            ours("int8", "int8 weights, fp32 activations", "int8"),
            *(
                ()
                if options.what == "batch-1"
                else (ours("int8-narrow", "int8 weights, int16 activations", "int8", narrow=True),)
            ),
            *(() if classify else (ours("int4", "int4 in groups of 32, embedding and head int8", "int4"),)),
            *(() if classify else (peer, *(llama_cpp(packing) for packing in _PACKINGS))),
        ),
        prepare=lambda *_: None,  # random numbers from a seed need no file
        targets=_TARGETS[options.what],
        notes=("random weights and tokens, greedy, the same prompts for all; a step is the whole answer",),
    )


def measure_generator(
    options: Options, folder: Path, *, kind: Kind, prepared: bool = True, narrow: bool = False
) -> Measured:
    """The generator, over a whole answer to all prompts."""
    from gptcore.generation import Generator, Request, Sampling

    del folder
    model, size = model_of(options, kind=kind, prepared=prepared, narrow=narrow), size_of(options)
    generator = Generator(model, slots=size.n_prompts, capacity=size.longest + size.n_new)
    requests = [Request(prompt, Sampling(max_new_tokens=size.n_new)) for prompt in prompts_of(options)]

    def step(number: int) -> float:
        del number
        return sum(len(answer.tokens) for answer in generator.generate(requests))

    return _timed(options, step, prepared=prepared)


def measure_classifier(
    options: Options, folder: Path, *, kind: Kind, prepared: bool = True, narrow: bool = False
) -> Measured:
    """Features at the last position and the head, as in the evaluation of a classifier."""
    import torch

    from gptcore.kernels import prepare_for_inference
    from gptcore.transforms import Classifier

    del folder
    plain = model_of(options, kind=kind, prepared=False, narrow=narrow)
    model = Classifier(labels=("ham", "spam"), train="head").apply(plain)
    if prepared:
        prepare_for_inference(model)
    rows = prompts_of(options)
    shortest = min(map(len, rows))
    tokens = torch.tensor([row[:shortest] for row in rows])
    last = torch.full((len(tokens),), shortest - 1)

    def step(number: int) -> float:
        del number
        with torch.no_grad():
            model.head(model.features_at(tokens, last))
        return float(len(tokens))

    return _timed(options, step, prepared=prepared)


def model_of(options: Options, *, kind: Kind, prepared: bool, narrow: bool = False) -> GPT:
    """The model with random weights, quantized as told."""
    import torch

    from gptcore.kernels import prepare_for_inference
    from gptcore.models import GPTConfig
    from gptcore.transforms import Quantize

    torch.manual_seed(0)
    width, n_layers, n_heads = (32, 2, 2) if options.smoke else (768, 12, 12)
    model = GPTConfig(width=width, n_layers=n_layers, n_heads=n_heads).build().eval()
    if kind != "fp32":
        Quantize(bits=8 if kind == "int8" else 4, activation_bits=16 if narrow else 32).apply(model)
    return prepare_for_inference(model) if prepared else model


def _timed(options: Options, step: Callable[[int], float], *, prepared: bool) -> Measured:
    import torch

    from gptcore.kernels import load_kernels

    kernels = load_kernels() if prepared else None
    facts = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernels": kernels.lanes if kernels else "none",
    }
    return timed_steps(step, warmup=options.warmup, n_steps=options.steps, facts=facts)


def _transformers(options: Options, folder: Path) -> Measured:
    from benchmarks.peers.decoding import measure_generate

    del folder
    width, n_layers, n_heads = (32, 2, 2) if options.smoke else (768, 12, 12)
    sizes = {"width": width, "n_layers": n_layers, "n_heads": n_heads}
    return measure_generate(options, prompts_of(options), n_new=size_of(options).n_new, **sizes)


def _llama_cpp(options: Options, folder: Path, *, packing: Packing) -> Measured:
    from benchmarks.peers.llama_cpp import measure_llama_cpp

    model = model_of(options, kind="fp32", prepared=False)
    return measure_llama_cpp(options, folder, model, prompts_of(options), n_new=size_of(options).n_new, packing=packing)


if __name__ == "__main__":
    parser = shared_parser(str(__doc__), steps=2)
    parser.add_argument("--what", choices=tuple(_TITLES), default="batch-1", help="what is measured (default batch-1)")
    parser.set_defaults(warmup=1)
    main("benchmarks.decode", build, parser)
