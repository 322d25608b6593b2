"""The stage store: finished or resumable, made once, damage noticed, killed owners forgotten."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.store import Entry, StageStore, stage_key
from gptcore.errors import LockedError, OutOfDiskError
from gptcore.files import disk_errors, write_json

ROOT = Path(__file__).parents[2]


def make(store: StageStore, key: str, text: str = "weights", *, force: bool = False) -> Entry:
    with store.produce("pretrain", key, force=force) as work:
        if work.entry is None:
            (work.folder / "model").mkdir(exist_ok=True)
            (work.folder / "model" / "weights.bin").write_text(text)
            work.remember_run("run-1")
            work.commit({"loss": 1.5}, version=2, config={"steps": 3}, inputs={"data": "abc"})
    assert work.entry is not None
    return work.entry


def fail_after_a_step(store: StageStore) -> None:
    with store.produce("pretrain", "k") as work:
        (work.folder / "step-5").touch()
        work.remember_run("run-7")
        _ = 1 / 0


def work_on_a_full_disk(store: StageStore) -> None:
    with store.produce("pretrain", "k") as work:
        (work.folder / "weights.bin").write_text("w")
        # Writing to this name, under which the run's id is first written, fails as on a full disk.
        (work.folder / f".mlflow-run.tmp-{os.getpid()}").symlink_to("/dev/full")
        work.remember_run("run-1")


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_key_depends_on_stage_version_config_and_inputs_but_not_on_order() -> None:
    key = stage_key("a", version=1, config={"x": 1, "y": 2}, inputs={"d": "0"})
    assert len(key) == 16
    assert key == stage_key("a", version=1, config={"y": 2, "x": 1}, inputs={"d": "0"})
    others = {
        stage_key("b", version=1, config={"x": 1, "y": 2}, inputs={"d": "0"}),
        stage_key("a", version=2, config={"x": 1, "y": 2}, inputs={"d": "0"}),
        stage_key("a", version=1, config={"x": 1, "y": 3}, inputs={"d": "0"}),
        stage_key("a", version=1, config={"x": 1, "y": 2}, inputs={"d": "1"}),
    }
    assert len(others | {key}) == 5


def test_an_output_is_made_once_and_found_again_with_its_result(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    assert store.find("pretrain", "k") is None
    made = make(store, "k")
    assert make(store, "k", "other weights") == made == store.find("pretrain", "k", verify=True)
    assert made.result == {"loss": 1.5}
    assert made.run_id == "run-1"
    assert made.path == store.folder("pretrain", "k")
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest["config"] == {"steps": 3}
    assert manifest["inputs"] == {"data": "abc"}
    assert list(manifest["files"]) == ["model/weights.bin"]
    assert sorted(path.name for path in made.path.parent.iterdir()) == ["k", "k.lock"]


def test_the_digest_follows_the_contents(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    assert make(store, "k", "a").digest == make(store, "same", "a").digest != make(store, "other", "b").digest


def test_force_makes_a_new_output_and_keeps_the_old_one_until_then(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    old = make(store, "k", "old")
    with store.produce("pretrain", "k", force=True) as abandoned:
        assert list(abandoned.folder.iterdir()) == []
    assert store.find("pretrain", "k", verify=True) == old
    new = make(store, "k", "new", force=True)
    assert new.digest != old.digest
    assert store.find("pretrain", "k", verify=True) == new
    assert sorted(path.name for path in new.path.parent.iterdir()) == ["k", "k.lock"]


def test_work_that_failed_is_still_there_for_the_next_attempt(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        fail_after_a_step(store)
    with store.produce("pretrain", "k") as again:
        assert again.entry is None
        assert (again.folder / "step-5").exists()
        assert again.run_id == "run-7"


@pytest.mark.parametrize(
    ("damage", "verify", "message"),
    [
        ("flip", True, r"weights.bin has sha256 \w+, its manifest says"),
        ("cut", False, "weights.bin has 6 bytes, its manifest says 7"),
        ("remove", False, "weights.bin is missing"),
        ("manifest", False, "manifest.json cannot be read"),
    ],
)
def test_damage_is_noticed_named_and_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, verify: bool, message: str
) -> None:
    store = StageStore(tmp_path)
    entry = make(store, "k")
    weights = entry.path / "model" / "weights.bin"
    if damage == "flip":
        weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
        assert store.find("pretrain", "k") is not None, "sizes alone cannot show a flipped byte"
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "remove":
        weights.unlink()
    else:
        (entry.path / "manifest.json").write_text('{"stage": "pre')
    with caplog.at_level(logging.WARNING):
        assert store.find("pretrain", "k", verify=verify) is None
    assert re.search(message, caplog.text)
    assert (entry.path.with_name("k.corrupt-1")).is_dir()
    assert make(store, "k").digest == entry.digest


def test_a_folder_without_manifest_does_not_count_as_finished(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    store.folder("pretrain", "k").mkdir(parents=True)
    assert store.find("pretrain", "k") is None


HOLD_AND_DIE = """
import sys, time
from pathlib import Path
from flows.store import StageStore
with StageStore(Path(sys.argv[1])).produce("pretrain", "k") as work:
    (work.folder / "step-5").write_text("half way")
    work.remember_run("run-3")
    print("holding", flush=True)
    time.sleep(60)
"""


def test_a_killed_owner_frees_the_lock_and_leaves_its_work(tmp_path: Path) -> None:
    owner = start(HOLD_AND_DIE, str(tmp_path))
    assert owner.stdout is not None
    assert owner.stdout.readline() == "holding\n"
    store = StageStore(tmp_path)
    message = rf"pretrain/k is in use by process {owner.pid} on \S+ since 20\d\d-.*wait for it or stop it"
    with pytest.raises(LockedError, match=message), store.produce("pretrain", "k", wait=False):
        pass
    owner.send_signal(signal.SIGKILL)
    owner.communicate(timeout=10)
    assert store.find("pretrain", "k") is None
    with store.produce("pretrain", "k", wait=False) as work:
        assert (work.folder / "step-5").read_text() == "half way"
        assert work.run_id == "run-3"


RACE = """
import sys, time
from pathlib import Path
from flows.store import StageStore
root = Path(sys.argv[1])
with StageStore(root).produce("pretrain", "k") as work:
    if work.entry is None:
        with (root / "made").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        (work.folder / "out").write_text("done")
        work.commit({"who": sys.argv[2]})
print(work.entry.result["who"])
"""


def test_two_racing_processes_make_it_once_and_both_get_it(tmp_path: Path) -> None:
    racers = [start(RACE, str(tmp_path), name) for name in ("a", "b")]
    told = [racer.communicate(timeout=30) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], told
    assert (tmp_path / "made").read_text() == "x"
    assert told[0][0] == told[1][0]
    assert sum("waiting for it" in errors for _, errors in told) <= 1


def test_a_full_disk_is_told_with_bytes_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full to write to")
    target = tmp_path / "report.json"
    (tmp_path / f"report.json.tmp-{os.getpid()}").symlink_to(full)
    with pytest.raises(OutOfDiskError, match=r"report\.json could not be written: .*[\d,]+ bytes are free"):
        write_json(target, {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_the_middle_keeps_the_work(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full to write to")
    store = StageStore(tmp_path)
    with pytest.raises(OutOfDiskError, match="choose another folder"):
        work_on_a_full_disk(store)
    assert store.find("pretrain", "k") is None
    assert (store.root / "pretrain" / "k.work" / "weights.bin").exists()
    assert make(store, "k").result == {"loss": 1.5}


def test_only_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(OutOfDiskError, match="bytes are free"), disk_errors(tmp_path / "not" / "there"):
        raise OSError(errno.ENOSPC, "full")


def test_hashing_a_big_file_takes_little_memory(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(200_000_000)
    code = "import sys, resource; from pathlib import Path; from gptcore.files import file_sha256;" + (
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; print(file_sha256(Path(sys.argv[1])));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    told, _ = start(code, str(big)).communicate(timeout=30)
    digest, grown = told.split()
    assert len(digest) == 64
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(grown) * unit < 20_000_000
