"""Several processes under torchrun end where one process ends."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gptcore.run import Run
from gptcore.train import MemoryLogger, Muon
from gptcore.train.logger import read_history
from gptcore.train.sharded import SHARDS

pytestmark = pytest.mark.distributed

RANK = """
import json, os, signal, sys
from pathlib import Path
import torch
import gptcore.data
from gptcore.errors import InterruptedRun
from gptcore.run import Run
from gptcore.train import MemoryLogger
from gptcore.train.distributed import group
torch.set_num_threads(1)
def outlived():
    with group("ddp") as parallel:
        module = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
        module(torch.ones(2, 4)).sum().backward()
        parallel.broadcast("the last that is said")
        return module
for job in json.loads(Path(sys.argv[1]).read_text()):
    for _ in range(job.pop("outlived", 0)):
        outlived()
    out, log = Path(job["out"]), MemoryLogger()
    run = Run.from_dict(job["run"])
    died = out.parent / f"{out.name}.died"
    def at(progress):
        if progress.step == job.get("die_at") and not died.exists():
            died.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        if progress.step == job.get("stop_at"):
            os.kill(os.getpid(), signal.SIGTERM)
    try:
        result = run.execute(out, log, on_progress=at, parallel=job["parallel"])
        told = result.metrics
    except InterruptedRun as error:
        told = {"interrupted": str(error)}
    said = Path(f"{out}.{job['parallel']}.rank{os.environ['RANK']}.json")
    said.write_text(json.dumps({"told": told, "log": log.metrics}))
"""


def torchrun(tmp_path: Path, jobs: list[dict[str, Any]], *, nproc: int = 2, restarts: int = 0) -> str:
    """Run the jobs one after another in the same processes; what they printed."""
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs, default=str))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
    command += [f"--max-restarts={restarts}", str(tmp_path / "rank.py"), str(tmp_path / "jobs.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def assert_same_training(one: Path, other: Path) -> None:
    """Loss and gradient of the first step agree within 1e-6, and the weights after all steps within 1e-4.

    The weights cannot agree better: Adam divides each gradient by its own size, also one that is nothing but rounding,
    such as that of the keys' biases, which shift all scores of a softmax alike.
    """
    whole, told = (read_history(out / "metrics.jsonl") for out in (one, other))
    assert [line["step"] for line in whole] == [line["step"] for line in told]
    for name in ("train/loss", "train/grad_norm"):
        assert told[0][name] == pytest.approx(whole[0][name], rel=1e-6)
    assert told[-1]["val/loss"] == pytest.approx(whole[-1]["val/loss"], rel=1e-5)
    a, b = (load_file(out / "checkpoint/model.safetensors") for out in (one, other))
    assert a.keys() == b.keys()
    distance = sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5
    assert distance <= 1e-4 * sum(float(tensor.square().sum()) for tensor in a.values()) ** 0.5


def without_dropout(prepared: Any, **train: Any) -> Run:
    run = prepared.run(train={"sample_prompts": ("The cat",), "steps": 10, "log_every": 1, **train})
    assert run.model is not None
    return dataclasses.replace(run, model=dataclasses.replace(run.model, dropout=0.0))


def test_ddp_and_fsdp_end_where_one_process_ends_and_each_resumes_the_other(prepared: Any, tmp_path: Path) -> None:
    run = without_dropout(prepared)
    ragged = without_dropout(prepared, micro_batch_size=1, batch_size=3)  # 2 and 1 samples: a filler is needed
    for name, value in (("one", run), ("one_ragged", ragged)):
        value.execute(tmp_path / name, MemoryLogger())
    jobs = [
        # groups that DDP outlives, as after an error: of the first ten one hung while its threads were joined
        {"run": run.to_dict(), "out": tmp_path / "ddp", "parallel": "ddp", "outlived": 15},
        {"run": run.to_dict(), "out": tmp_path / "fsdp", "parallel": "fsdp"},
        {"run": ragged.to_dict(), "out": tmp_path / "ddp_ragged", "parallel": "ddp"},
        {"run": ragged.to_dict(), "out": tmp_path / "fsdp_ragged", "parallel": "fsdp"},
        {"run": run.to_dict(), "out": tmp_path / "stopped", "parallel": "fsdp", "stop_at": 6},
        {"run": run.to_dict(), "out": tmp_path / "stopped_ddp", "parallel": "ddp", "stop_at": 6},
        {"run": run.to_dict(), "out": tmp_path / "stopped_ddp", "parallel": "fsdp"},
    ]
    torchrun(tmp_path, jobs)
    for kind in ("ddp", "fsdp"):
        assert_same_training(tmp_path / "one", tmp_path / kind)
        assert_same_training(tmp_path / "one_ragged", tmp_path / f"{kind}_ragged")
        first, second = (json.loads((tmp_path / f"{kind}.{kind}.rank{rank}.json").read_text()) for rank in (0, 1))
        assert first["log"]
        assert not second["log"]  # logged once, by rank 0
        assert first["told"]["val/loss"] == second["told"]["val/loss"]
    for name in ("stopped.fsdp", "stopped_ddp.ddp"):
        stopped = json.loads((tmp_path / f"{name}.rank1.json").read_text())["told"]["interrupted"]
        assert "after step 7 of 10" in stopped or "after step 6 of 10" in stopped
    newest = max((tmp_path / "stopped/checkpoints").iterdir())
    assert len(list((newest / SHARDS).iterdir())) == 2

    run.execute(tmp_path / "stopped", MemoryLogger())  # shards of two processes, read by one
    assert_same_training(tmp_path / "one", tmp_path / "stopped")
    assert_same_training(tmp_path / "one", tmp_path / "stopped_ddp")


@pytest.mark.slow
def test_muon_ends_where_one_process_ends_also_where_its_matrices_are_spread(prepared: Any, tmp_path: Path) -> None:
    run = without_dropout(prepared, optimizer=Muon(lr=3e-3, matrix_lr_scale=2.0))
    run.execute(tmp_path / "one", MemoryLogger())
    jobs = [{"run": run.to_dict(), "out": tmp_path / kind, "parallel": kind} for kind in ("ddp", "fsdp")]
    stopped = {"run": run.to_dict(), "out": tmp_path / "stopped", "parallel": "fsdp", "stop_at": 6}
    torchrun(tmp_path, [*jobs, stopped])
    run.execute(tmp_path / "stopped", MemoryLogger())  # shards of two processes, read by one
    for name in ("ddp", "fsdp", "stopped"):
        assert_same_training(tmp_path / "one", tmp_path / name)


def test_a_killed_rank_is_started_again_and_the_run_ends_with_the_same_bits(prepared: Any, tmp_path: Path) -> None:
    run = prepared.run(train={"steps": 10, "checkpoint_every": 3})  # with dropout
    whole = {"run": run.to_dict(), "out": tmp_path / "whole", "parallel": "ddp"}
    torchrun(tmp_path, [whole, {**whole, "out": tmp_path / "killed", "die_at": 5}], restarts=1)
    assert (tmp_path / "killed.died").exists()
    for name in ("metrics.jsonl", "samples.jsonl", "checkpoint/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
