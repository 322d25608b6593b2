"""A loss of several parts, each with a denominator of its own, and what an objective says of itself."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from gptcore.batch import IGNORED, Batch, Loss
from gptcore.errors import ConfigError, DataError
from gptcore.models import GPT
from gptcore.objectives import Classify, Distill, NextToken, Objective
from gptcore.run import Run
from gptcore.train import Constant, MemoryLogger, OptimizerConfig, evaluate
from gptcore.train.logger import read_history
from gptcore.train.trainer import Trainer
from gptcore.train.weighing import Weighing
from gptcore.transforms import Classifier
from tests.house.networks import HouseEncoderConfig, HouseViewerConfig
from tests.house.objectives import MaskedAndTurned, MeasuredNumber, OneNumberHead, TurnedHead
from tests.house.sources import HiddenWindows, MeasuredWindows

ROOT = Path(__file__).parents[3]
Build = Callable[..., GPT]
RANK = """
import json, sys
from pathlib import Path
import torch
from gptcore.run import Run
from gptcore.train import MemoryLogger
from tests.house import objectives, sources
torch.set_num_threads(1)
for job in json.loads(Path(sys.argv[1]).read_text()):
    Run.from_dict(job["run"]).execute(Path(job["out"]), MemoryLogger(), parallel=job["parallel"])
"""


def two_parts(prepared: Any, *, asked: int = 3, objective: Objective | None = None, **train: Any) -> Run:
    """A run on hidden words and turned halves; each third sample is asked for the latter."""
    data = HiddenWindows(prepared.train.folder, 16, asked=asked)
    settings = {"steps": 6, "batch_size": 8, "log_every": 1, "eval_every": 3, "sample_prompts": (), **train}
    run: Run = prepared.run(
        data=data,
        held_out=dataclasses.replace(data, folder=prepared.held_out.folder),
        objective=objective or MaskedAndTurned(),
        transforms=(TurnedHead(),),
        train=settings,
    )
    assert run.model is not None
    return dataclasses.replace(run, model=dataclasses.replace(run.model, dropout=0.0))


def begun(run: Run, out: Path) -> Trainer:
    out.mkdir()
    trainer = run.trainer(out, MemoryLogger())
    trainer.model.train()
    return trainer


def flat(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("micro_batch_size", [4, 2, 1])
def test_parts_add_up_over_micro_batches_of_any_size(prepared: Any, tmp_path: Path, micro_batch_size: int) -> None:
    """Also where most of them have no item of the second part."""
    still = {"schedule": Constant(0.0), "optimizer": OptimizerConfig(lr=1e-4)}
    one = begun(two_parts(prepared, **still), tmp_path / "one")
    cut = begun(two_parts(prepared, micro_batch_size=micro_batch_size, **still), tmp_path / "cut")
    before = flat(one)
    (loss, norm), (same, also) = one.train_step(), cut.train_step()
    assert (same, also) == (pytest.approx(loss, rel=1e-6), pytest.approx(norm, rel=1e-5))
    assert float((flat(one) - flat(cut)).norm()) < 1e-3 * float((flat(one) - before).norm())


def test_what_is_differentiated_is_the_weighted_sum_of_the_parts_own_means(prepared: Any, tmp_path: Path) -> None:
    one = begun(two_parts(prepared, clip=1e9, micro_batch_size=3), tmp_path / "one")
    batch = one.source.batch(one.feed.indices(0), draw=one.feed.draw(0))
    features = one.model.features(batch.inputs["tokens"])
    masked = F.cross_entropy(one.model.head(features).flatten(0, 1), batch.targets["labels"].flatten())
    turned = one.model.get_submodule("turned_head")(features[:, -1])
    expected = masked + 0.5 * F.cross_entropy(turned, batch.targets["turned"])
    norm = torch.stack([g.norm() for g in torch.autograd.grad(expected, list(one.model.parameters()))]).norm()
    asked = int((batch.targets["turned"] != IGNORED).sum())
    assert 0 < asked < len(batch.targets["turned"])  # the two parts have different denominators
    assert one.train_step() == (pytest.approx(expected.item(), rel=1e-5), pytest.approx(norm.item(), rel=1e-4))


def test_each_part_is_told_beside_the_loss_and_only_what_the_objective_measures(prepared: Any, tmp_path: Path) -> None:
    log = MemoryLogger()
    result = two_parts(prepared, asked=2).execute(tmp_path / "out", log)
    told = {name for _, line in log.metrics for name in line}
    assert {"train/loss", "train/loss/masked", "train/loss/turned", "val/loss/masked", "val/loss/turned"} <= told
    assert not {"val/perplexity", "val/bits_per_byte", "val/accuracy"} & told
    assert 0.0 <= result.metrics["val/masked_accuracy"] <= 1.0
    for line in read_history(tmp_path / "out/metrics.jsonl"):
        for place in {name.partition("/")[0] for name in line if name.endswith("/loss")}:
            parts = line[f"{place}/loss/masked"], line[f"{place}/loss/turned"]
            assert line[f"{place}/loss"] == pytest.approx(parts[0] + 0.5 * parts[1], rel=1e-9)


def test_a_part_that_nobody_is_asked_for_is_left_out(prepared: Any, tmp_path: Path) -> None:
    log = MemoryLogger()
    two_parts(prepared, asked=0).execute(tmp_path / "out", log)
    for _, line in log.metrics:
        assert "train/loss/turned" not in line
        assert "val/loss/turned" not in line
        if "train/loss" in line:
            assert line["train/loss"] == line["train/loss/masked"] > 0


def test_a_batch_or_held_out_data_without_any_item_is_an_error(prepared: Any, tmp_path: Path) -> None:
    run = two_parts(prepared, asked=0)
    nothing = dataclasses.replace(run.data, share=0.0)
    trainer = begun(dataclasses.replace(run, data=nothing), tmp_path / "out")
    with pytest.raises(DataError, match="the batch of step 0 has no target at all"):
        trainer.train_step()
    with pytest.raises(DataError, match="the held-out data has no target at all; check the data's ledger"):
        evaluate(trainer.model, nothing.open(), trainer.objective, batch_size=4)


def test_a_part_that_is_forgotten_is_refused_before_others_wait_for_its_gradient(prepared: Any, tmp_path: Path) -> None:
    run = two_parts(prepared, micro_batch_size=1, objective=MaskedAndTurned(forgets=True))
    with pytest.raises(ConfigError, match="MaskedAndTurned expected the parts masked, turned, got masked; while"):
        begun(run, tmp_path / "out").train_step()


class Odd(Objective):
    """Counts a part that it gave no weight."""

    def weights(self) -> dict[str, float]:
        return {"one": 1.0}

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"one": len(batch.inputs), "two": 2}


def test_parts_without_a_weight_or_a_gradient_are_refused_by_name() -> None:
    weighing = Weighing(Odd())
    with pytest.raises(ConfigError, match=r"Odd\.counts names the part 'two'; expected one of one, the parts that"):
        weighing.counts([Batch({}, {})])
    with pytest.raises(
        ConfigError, match=re.escape("expected the parts one, got one (without a gradient), two; while")
    ):
        weighing.scale(Loss({"one": torch.ones(()), "two": torch.ones((), requires_grad=True)}, {}), [1.0])
    with pytest.raises(ValueError, match=r"expected a loss of one part, got one, two; read Loss\.parts"):
        _ = Loss({"one": torch.ones(()), "two": torch.ones(())}, {}).total


@pytest.mark.distributed
def test_two_processes_end_where_one_ends_also_where_one_of_them_lacks_a_part(prepared: Any, tmp_path: Path) -> None:
    """Of a batch of four, each with a sample or two that is asked, or none: also in the last micro-batch."""
    runs = {f"cut{n}": two_parts(prepared, batch_size=4, micro_batch_size=n) for n in (1, 2)}
    jobs = []
    for name, run in runs.items():
        run.execute(tmp_path / name, MemoryLogger())
        jobs += [{"run": run.to_dict(), "out": tmp_path / f"{name}.{k}", "parallel": k} for k in ("ddp", "fsdp")]
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs, default=str))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*command, str(tmp_path / "rank.py"), str(tmp_path / "jobs.json")],
        capture_output=True, text=True, timeout=250, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    for job in jobs:
        whole = tmp_path / Path(job["out"]).stem
        assert_same(read_history(whole / "metrics.jsonl"), read_history(job["out"] / "metrics.jsonl"))
        a, b = (load_file(out / "checkpoint/model.safetensors") for out in (whole, job["out"]))
        distance = sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5
        assert distance <= 1e-4 * sum(float(tensor.square().sum()) for tensor in a.values()) ** 0.5


def assert_same(one: list[Mapping[str, Any]], other: list[Mapping[str, Any]]) -> None:
    assert [line.keys() for line in one] == [line.keys() for line in other]
    asked = ["train/loss/turned" in line for line in one if "train/loss" in line]
    assert set(asked) == {True, False}  # a step without any item of the second part is among them
    for name in ("val/loss", "val/loss/turned", "val/masked_accuracy"):
        assert other[-1][name] == pytest.approx(one[-1][name], rel=1e-4)
    for name in ("train/loss", "train/loss/masked", "train/loss/turned", "train/grad_norm"):
        for line, same in zip(one[:2], other[:2], strict=True):
            if name in line:
                assert same[name] == pytest.approx(line[name], rel=1e-5)


def test_a_regression_is_tracked_by_its_error_and_never_by_a_perplexity(prepared: Any, tmp_path: Path) -> None:
    log = MemoryLogger()
    run = prepared.run(
        data=MeasuredWindows(prepared.train.folder, 16),
        held_out=MeasuredWindows(prepared.held_out.folder, 16),
        objective=MeasuredNumber(),
        transforms=(OneNumberHead(),),
        train={"sample_prompts": ()},
    )
    result = run.execute(tmp_path / "out", log)
    assert {name for name in result.metrics if name.startswith("val/")} == {"val/loss", "val/mae"}
    assert result.metrics["val/mae"] ** 2 <= result.metrics["val/loss"] * 1.001
    assert not any("perplexity" in name or "train/loss/" in name for _, line in log.metrics for name in line)


# --- which networks an objective fits


def test_an_encoder_learns_hidden_words_and_is_refused_next_ones_before_anything_is_trained(
    prepared: Any, tmp_path: Path
) -> None:
    run = dataclasses.replace(two_parts(prepared), model=HouseEncoderConfig())
    assert "val/masked_accuracy" in run.execute(tmp_path / "hidden", MemoryLogger()).metrics
    next_ones = dataclasses.replace(run, objective=NextToken(), data=prepared.train, held_out=None)
    with pytest.raises(ConfigError, match="NextToken expects a causal network, got HouseEncoder, whose positions see"):
        next_ones.execute(tmp_path / "next", MemoryLogger())
    assert [path.name for path in (tmp_path / "next").iterdir()] == ["run.lock"]


def test_words_and_classes_each_need_their_own_head(gpt: Build) -> None:
    head = Classifier(labels=("a", "b"))
    NextToken().fits(gpt())
    Classify().fits(head.apply(gpt()))
    Classify().fits(HouseViewerConfig().build())  # reads no words that its outputs could be
    with pytest.raises(ConfigError, match="each of the 300 words, got GPT with 2 outputs; train a head over classes"):
        NextToken().fits(head.apply(gpt()))
    with pytest.raises(ConfigError, match=r"over 300 words; add the transform Classifier\(labels=...\) to the run"):
        Classify().fits(gpt())


def test_a_student_is_compared_with_its_teacher_before_anything_is_trained(prepared: Any, tmp_path: Path) -> None:
    run = prepared.run(train={"steps": 1})
    teacher = run.execute(tmp_path / "teacher", MemoryLogger()).path
    larger = dataclasses.replace(run.model, vocab_size=320)
    with pytest.raises(ConfigError, match="expected a teacher with the student's 320 outputs, got one with 300"):
        dataclasses.replace(run, model=larger, objective=Distill(teacher)).execute(tmp_path / "out", MemoryLogger())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.lock"]
