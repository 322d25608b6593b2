"""Networks that live in the tests alone are trained, measured, kept, spread and decoded, or refused with a sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptcore import checkpoint
from gptcore.batch import Batch
from gptcore.data import LabelledText, TokenWindows, write_shards
from gptcore.data.base import Data
from gptcore.errors import ConfigError, InterruptedRun
from gptcore.generation import Generator, Request, Sampling, speculate
from gptcore.measures import Continuation, class_probabilities, continuation_nats
from gptcore.models import Memory, Network, NetworkConfig
from gptcore.objectives import Classify, NextToken
from gptcore.objectives.classify import class_logits
from gptcore.run import Run
from gptcore.text import TextModel
from gptcore.tokenizer import Tokenizer, train_bpe
from gptcore.train import MemoryLogger, OptimizerConfig, TrainConfig
from gptcore.train.held_out import evaluate
from gptcore.transforms import Classifier, LoRA
from tests.house.answers import Answer, BackwardsRows
from tests.house.networks import (
    HouseDecoderConfig,
    HouseEncoderConfig,
    HouseSeq2Seq,
    HouseSeq2SeqConfig,
    HouseViewerConfig,
)

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The keeper counted the ships each evening, and wrote their number in a green book beside the lamp. " * 4
LABELS = ("even", "odd")
READERS: list[NetworkConfig] = [HouseDecoderConfig(), HouseEncoderConfig(), HouseSeq2SeqConfig()]
HEAD = Classifier(labels=LABELS, train="all")


def named(value: Any) -> str:
    return type(value).__name__.removesuffix("Config")


def built(config: NetworkConfig, *transforms: Any, seed: int = 0) -> Any:
    """With weights so large that every layer shapes what comes out."""
    torch.manual_seed(seed)
    network = config.build()
    for transform in transforms:
        network = transform.apply(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT], vocab_size=300)


@pytest.fixture
def labelled(tokenizer: Tokenizer, tmp_path: Path) -> LabelledText:
    """Rows of very different lengths."""
    tokenizer.save(tmp_path / "tokenizer")
    rows = [{"text": TEXT[i : i + 2 + 7 * (i % 5)], "label": LABELS[i % 2]} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LabelledText(tmp_path / "rows.jsonl", tmp_path / "tokenizer", LABELS, 32)


def run_of(data: LabelledText, config: NetworkConfig | None = None, **train: Any) -> Run:
    plain: dict[str, Any] = {"steps": 6, "batch_size": 4, "log_every": 1, "eval_every": 3, "checkpoint_every": 2}
    return Run(
        data=data,
        held_out=data,
        objective=Classify(),
        tokenizer=data.tokenizer,
        model=config or HouseEncoderConfig(dropout=0.1),
        transforms=(HEAD,),
        train=TrainConfig(**{**plain, "optimizer": OptimizerConfig(lr=3e-3), **train}),
    )


# --- what a row gives does not know its neighbours


@pytest.mark.parametrize("config", READERS, ids=named)
def test_a_row_has_the_same_summary_alone_beside_a_longer_row_and_packed(config: NetworkConfig) -> None:
    network = built(config)
    long, short = torch.randint(1, 300, (1, 20)), torch.randint(1, 300, (1, 6))
    alone = network.summary({"tokens": short})
    padded = torch.cat([long, torch.nn.functional.pad(short, (0, 14))])
    beside = network.summary({"tokens": padded}, lengths=(20, 6))
    assert torch.allclose(beside[1:], alone, atol=1e-5)
    if isinstance(network, HouseSeq2Seq):
        with pytest.raises(ConfigError, match="expected padded rows, got packed ones"):
            network.summary({"tokens": torch.cat([long, short], dim=1)}, lengths=(20, 6), packed=True)
    else:
        packed = network.summary({"tokens": torch.cat([long, short], dim=1)}, lengths=(20, 6), packed=True)
        assert torch.allclose(packed[1:], alone, atol=1e-5)
    assert not torch.allclose(network.summary({"tokens": padded[1:]}), alone, atol=1e-2) or network.causal


@pytest.mark.parametrize("config", READERS[:2], ids=named)
def test_held_out_figures_and_measured_classes_do_not_depend_on_the_batch(
    config: NetworkConfig, labelled: LabelledText
) -> None:
    network, source = built(config, HEAD), labelled.open()
    alone, together = (evaluate(network, source, Classify(), batch_size=size) for size in (1, 24))
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)
    probabilities = [class_probabilities(network, source, batch_size=size) for size in (1, 24)]
    assert torch.allclose(*probabilities, atol=1e-5)
    logits = [class_logits(network, source.batch(range(24), packed=packed)) for packed in (False, True)]
    assert torch.allclose(*logits, atol=1e-5)


@pytest.mark.parametrize("config", READERS[:2], ids=named)
def test_padded_and_packed_training_end_with_the_same_weights(
    config: NetworkConfig, labelled: LabelledText, tmp_path: Path
) -> None:
    found = []
    for name, change in {"whole": {}, "alone": {"micro_batch_size": 1}, "packed": {"packed": True}}.items():
        path = run_of(labelled, config, steps=3, **change).execute(tmp_path / name, MemoryLogger()).path
        found.append(vector(checkpoint.load(path).model))
    for other in found[1:]:
        assert float((other - found[0]).norm() / found[0].norm()) < 1e-4


# --- a life of training


def test_an_encoder_is_kept_resumed_to_the_bit_and_adapted(labelled: LabelledText, tmp_path: Path) -> None:
    run = run_of(labelled)
    whole = run.execute(tmp_path / "whole", MemoryLogger())

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises((InterruptedRun, KeyboardInterrupt)):
        run.execute(tmp_path / "stopped", MemoryLogger(), on_progress=stop)
    again = run.execute(tmp_path / "stopped", MemoryLogger())
    one, other = ((path / "model.safetensors").read_bytes() for path in (whole.path, again.path))
    assert one == other

    lora = LoRA(rank=2, targets=("query", "value"))
    start = dataclasses.replace(run, model=None, init=whole.path, transforms=(lora,))
    adapted = checkpoint.load(start.execute(tmp_path / "lora", MemoryLogger()).path)
    assert [type(each) for each in adapted.spec.transforms] == [Classifier, LoRA]
    assert adapted.spec.words.vocab_size == 300
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run


@pytest.mark.parametrize("config", [*READERS, HouseViewerConfig()], ids=named)
def test_recomputed_activations_give_the_same_gradients(config: NetworkConfig) -> None:
    found = []
    for again in (False, True):
        network = built(config, HEAD).train()
        if again:
            network.checkpoint_activations()
        Classify()(network, sample(config)).total.backward()
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(found[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def sample(config: NetworkConfig) -> Batch:
    classes = torch.tensor([0, 1, 1])
    if isinstance(config, HouseViewerConfig):
        return Batch({"pixels": torch.rand(3, config.channels, config.size, config.size)}, {"classes": classes})
    return Batch({"tokens": torch.randint(1, 300, (3, 9))}, {"classes": classes}, lengths=(9, 4, 7))


def test_a_network_of_images_learns_classes_from_its_summary() -> None:
    config = HouseViewerConfig()
    network = built(config, HEAD).train()
    classes = torch.arange(16) % 2
    pixels = torch.rand(16, 1, 8, 8) * (0.5 + 0.5 * classes)[:, None, None, None]
    batch = Batch({"pixels": pixels}, {"classes": classes})
    assert (batch.lengths, batch.device.type) == ((1,) * 16, "cpu")
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = Classify()(network, batch).total / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert network.operations().per_token > 0


def test_the_work_of_an_encoder_decoder_counts_both_of_its_stacks() -> None:
    network = HouseSeq2SeqConfig().build()
    halves = [sum(p.numel() for p in stack.parameters()) for stack in network.stacks()]
    assert network.operations().per_token == 6 * sum(halves)


# --- answers


def test_an_encoder_decoder_answers_as_without_a_cache_whatever_stands_beside() -> None:
    network = built(HouseSeq2SeqConfig())
    sources = [[5, 6, 7, 8, 9], [20, 21], [200] * 12, [3, 299, 14]]
    requests = [Request(source, Sampling(max_new_tokens=7 + i)) for i, source in enumerate(sources)]
    answers = Generator(network, slots=2, prefill_chunk=4).generate(requests)
    for source, request, answer in zip(sources, requests, answers, strict=True):
        assert answer.ids == greedy(network, source, request.sampling.max_new_tokens)
        assert Generator(network, slots=1).generate([request])[0].ids == answer.ids


@torch.no_grad()
def greedy(network: HouseSeq2Seq, source: Sequence[int], n_new: int) -> list[int]:
    memory: Memory = network.encode(torch.tensor([list(source)]))
    tokens = [network.config.start_token]
    for _ in range(n_new):
        features: Tensor = network.decode(torch.tensor([tokens]), memory)
        tokens.append(int(network.head(features[0, -1]).argmax()))
    return tokens[1:]


def test_an_answer_of_an_encoder_decoder_may_be_as_long_as_its_context() -> None:
    network = built(HouseSeq2SeqConfig())
    (answer,) = Generator(network).generate([Request([7] * 20, Sampling(max_new_tokens=100))])
    assert (len(answer.tokens), answer.finish) == (31, "length")


def test_a_decoder_answers_through_next_logits_alone() -> None:
    decoder = built(HouseDecoderConfig())

    class Spoken:
        """Not of any class of ours."""

        training, config = False, decoder.config
        new_cache, start, read, next_logits = decoder.new_cache, decoder.start, decoder.read, decoder.next_logits

    request = Request([1, 2, 3], Sampling(max_new_tokens=9))
    (wanted,) = Generator(decoder).generate([request])
    (found,) = Generator(Spoken(), slots=3, prefill_chunk=2).generate([request])  # type: ignore[arg-type]
    assert found.ids == wanted.ids
    assert speculate(decoder, [1, 2, 3], draft=decoder, max_new_tokens=9).tokens == wanted.ids


def test_an_encoder_decoder_is_trained_and_answers_from_its_checkpoint(labelled: LabelledText, tmp_path: Path) -> None:
    run = answering(labelled, steps=100, sample_prompts=("The keeper",), log_every=25, eval_every=100)
    result = run.execute(tmp_path / "out", MemoryLogger())
    lines = (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    assert result.metrics["val/loss"] < losses[-1] + 0.5
    (line,) = (tmp_path / "out/samples.jsonl").read_text().splitlines()
    text = TextModel.load(result.path)
    assert isinstance(text.model, HouseSeq2Seq)
    (answer,) = text.respond([("The keeper", "")], sampling=Sampling(max_new_tokens=40))
    assert json.loads(line)["text"].strip() == answer


def answering(data: LabelledText, **train: Any) -> Run:
    rows = BackwardsRows(data.tokenizer)
    return dataclasses.replace(
        run_of(data, HouseSeq2SeqConfig(), **train), data=rows, held_out=rows, objective=Answer(), transforms=()
    )


# --- refusals


def test_an_encoder_is_refused_by_all_that_generates(labelled: LabelledText, tmp_path: Path) -> None:
    sentence = r"expected a network that can generate text for .*, got a HouseEncoder, which can: .* read text"
    encoder = built(HouseEncoderConfig())
    with pytest.raises(ConfigError, match=sentence):
        Generator(encoder)
    with pytest.raises(ConfigError, match=sentence):
        continuation_nats(encoder, [Continuation([1], [2])])
    plain = dataclasses.replace(run_of(labelled), transforms=())
    spec = checkpoint.ModelSpec(HouseEncoderConfig(), tokenizer_digest=Tokenizer.load(plain.tokenizer).digest)
    checkpoint.save(tmp_path / "c", model=encoder, spec=spec, tokenizer=Tokenizer.load(plain.tokenizer))
    with pytest.raises(ConfigError, match=sentence):
        TextModel.load(tmp_path / "c")
    with pytest.raises(ConfigError, match=sentence):
        assert checkpoint.load(tmp_path / "c").decoder


def test_prompts_for_an_encoder_are_refused_before_anything_is_trained(labelled: LabelledText, tmp_path: Path) -> None:
    run = run_of(labelled, sample_prompts=("The",))
    with pytest.raises(ConfigError, match=r"generate text for train\.sample_prompts, got a HouseEncoder"):
        run.execute(tmp_path / "out", MemoryLogger())
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_data_of_another_kind_or_beyond_a_bound_is_refused(labelled: LabelledText) -> None:
    limits = labelled.open().limits
    with pytest.raises(ConfigError, match="bounded by size and channels for a HouseViewerConfig, got data bounded by "):
        HouseViewerConfig().check_fit(limits)
    with pytest.raises(ConfigError, match="expected data bounded by vocab_size and context_length"):
        HouseEncoderConfig().check_fit({"size": 8, "channels": 1})
    with pytest.raises(ConfigError, match="expected images of size 8, got 4"):
        HouseViewerConfig().check_fit({"size": 4, "channels": 1})
    with pytest.raises(ConfigError, match="cut to 26 positions, the model's context_length is 8"):
        HouseEncoderConfig(context_length=8).check_fit({**limits, "context_length": 26})
    HouseViewerConfig().check_fit({"size": 8, "channels": 1})


def test_a_network_of_images_is_refused_where_text_is_read() -> None:
    viewer: Network = built(HouseViewerConfig())
    batch = Batch({"tokens": torch.zeros(1, 4, dtype=torch.int64)}, {"labels": torch.zeros(1, 4, dtype=torch.int64)})
    with pytest.raises(ConfigError, match="can read text for a loss of tokens, got a HouseViewer, which can: read im"):
        NextToken()(viewer, batch)


# --- several processes

RANK = """
import json, sys
from pathlib import Path
import torch
import tests.house.answers, tests.house.networks
from gptcore.run import Run
from gptcore.train import MemoryLogger
torch.set_num_threads(1)
for job in json.loads(Path(sys.argv[1]).read_text()):
    Run.from_dict(job["run"]).execute(Path(job["out"]), MemoryLogger(), parallel=job["parallel"])
"""


@pytest.mark.distributed
def test_networks_of_the_tests_end_under_ddp_and_fsdp_where_one_process_ends(
    labelled: LabelledText, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_shards([TEXT], tokenizer=tokenizer, folder=tmp_path / "texts")
    windows: Data = TokenWindows(tmp_path / "texts", 16)
    decoder = dataclasses.replace(
        run_of(labelled, HouseDecoderConfig(), checkpoint_activations=True, sample_prompts=("The",)),
        data=windows,
        held_out=windows,
        objective=NextToken(),
        transforms=(),
    )
    runs = {
        "encoder": run_of(labelled, HouseEncoderConfig()),
        "again": run_of(labelled, HouseEncoderConfig(), checkpoint_activations=True, packed=True),
        "decoder": decoder,
        "answers": answering(labelled, sample_prompts=("The",), micro_batch_size=1),
    }
    jobs = []
    for name, run in runs.items():
        run.execute(tmp_path / name, MemoryLogger())
        kinds = ("ddp", "fsdp") if name == "encoder" else ("fsdp",)
        jobs += [{"run": run.to_dict(), "out": str(tmp_path / f"{name}-{kind}"), "parallel": kind} for kind in kinds]
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [str(tmp_path / "rank.py"), str(tmp_path / "jobs.json")]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=250, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for job in jobs:
        out = Path(str(job["out"]))
        one = out.with_name(out.name.partition("-")[0])
        ours, theirs = (checkpoint.load(folder / "checkpoint").model for folder in (one, out))
        distance = vector(theirs) - vector(ours)
        assert float(distance.norm() / vector(ours).norm()) < 1e-4, out.name


def vector(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
