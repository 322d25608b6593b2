"""A program that lives runs, each in a process of its own that it forks: torch is imported once for all of them.

For each line of its standard input, the path of a job (JSON), it tells the new process's number, and how it ended:

    run, out    the run and its folder, for ``Run.execute``
    wait        after each step tell it, and wait for a line before the next
    kill_after  seconds after which the process is killed by SIGKILL, wherever it is
    stop_after  seconds after which it is asked to stop, by SIGTERM
    stop_at     the step after which it asks itself to stop, by SIGINT
    die_at      the process kills itself just before its n-th operation on files of ``out``
    flush       whether files are flushed to the disk (default true)
    room        bytes that a file may have
    diary       where it writes what each step drew from the random streams, which samples it took, each operation on
                files, and where it was when it was killed
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptcore.data.base import Data, Source
from gptcore.errors import GptcoreError
from gptcore.run import Run
from gptcore.train import MemoryLogger, Progress

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Diary:
    """Lines that outlive their process: each is written in one call."""

    def __init__(self, folder: Path) -> None:
        self.lines = os.open(folder / "diary.jsonl", os.O_WRONLY | os.O_APPEND)
        self.place = os.open(folder / "place.txt", os.O_WRONLY | os.O_APPEND)
        os.dup2(os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())

    def add(self, **line: Any) -> None:
        """Write a line."""
        os.write(self.lines, (json.dumps(line) + "\n").encode())

    def step(self, progress: Progress) -> None:
        """Draw from each random stream: what was drawn before in this step shifts it."""
        drawn = [random.random(), float(np.random.random()), float(torch.rand(1))]
        self.add(step=progress.step, drawn=drawn)

    def know_place(self) -> None:
        """Let SIGUSR1 write down what the main thread is doing."""
        faulthandler.register(signal.SIGUSR1, file=self.place, all_threads=False)

    def tell_place(self) -> None:
        """Write it down now, from whatever thread."""
        main = sys._current_frames()[threading.main_thread().ident or 0]
        os.write(self.place, "".join(reversed(traceback.format_stack(main))).encode())


DIARY: Diary | None = None
"""Of this life, where one is kept."""


@dataclass(frozen=True)
class Recorded(Data):
    """Other data, and which samples of it were taken."""

    inner: Data
    """The data."""

    def open(self) -> Source:
        """Open it."""
        return RecordedSource(self.inner.open())  # type: ignore[return-value]


class RecordedSource:
    """A source that tells the diary."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def batch(self, indices: Any, **how: Any) -> Any:
        """The batch of the inner source."""
        if DIARY is not None:
            DIARY.add(samples=[int(i) for i in indices])
        return self.inner.batch(indices, **how)


class Witness:
    """Counts the operations on files below a folder, and kills the process at one of them."""

    def __init__(self, folder: Path, *, die_at: int | None) -> None:
        self.folder = str(folder)
        self.die_at = die_at
        self.count = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event not in OPERATIONS or not self.concerns(event, args):
            return
        self.count += 1
        if DIARY is not None:
            DIARY.add(operation=event, path=str(args[0]))
        if self.count == self.die_at:
            if DIARY is not None:
                DIARY.tell_place()
            os.kill(os.getpid(), signal.SIGKILL)

    def concerns(self, event: str, args: tuple[Any, ...]) -> bool:
        """Whether something is changed below the folder; a folder is deleted by names in it (``dir_fd``)."""
        if event == "open" and not args[2] & WRITES:
            return False
        if event in ("os.remove", "os.rmdir") and args[1] != -1:
            return True
        return str(args[0]).startswith(self.folder)


def without_flush(descriptor: int) -> None:
    """Instead of ``os.fsync``: what a killed process has written is not lost, and flushing takes most of the time."""


def live(job: dict[str, Any]) -> int:
    """One life; its exit code."""
    global DIARY
    out = Path(job["out"])
    if job.get("diary"):
        DIARY = Diary(Path(job["diary"]))
        DIARY.know_place()
        if not job.get("flush", True):
            os.fsync = without_flush  # type: ignore[assignment]
        sys.addaudithook(Witness(out, die_at=job.get("die_at")))

    if job.get("room"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["room"], resource.RLIM_INFINITY))

    def after_step(progress: Progress) -> None:
        if DIARY is not None:
            DIARY.step(progress)
        if progress.step == job.get("stop_at"):
            os.kill(os.getpid(), signal.SIGINT)
        if job.get("wait"):
            print(progress.step, flush=True)
            sys.stdin.readline()

    try:
        run = Run.from_dict(job["run"])
        if DIARY is not None:
            run = dataclasses.replace(run, data=Recorded(run.data))
        run.execute(out, MemoryLogger(), on_progress=after_step)
    except GptcoreError as error:
        print(error, flush=True)
        return error.exit_code
    return 0


def end_of(pid: int, job: dict[str, Any]) -> int:
    """Wait for a process, or send it a signal when its time has come; its exit code, negative after a signal."""
    for name, number in (("kill_after", signal.SIGKILL), ("stop_after", signal.SIGTERM)):
        if name not in job:
            continue
        deadline = time.monotonic() + job[name]
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.0005)
        if number == signal.SIGKILL:
            ask_place(pid, Path(job["diary"]) / "place.txt")
        os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ask_place(pid: int, file: Path) -> None:
    """Have a process write down where it is; one that has not begun to keep a diary, or is ending, never answers."""
    os.kill(pid, signal.SIGUSR1)
    for _ in range(40):
        if file.exists() and file.read_text().rstrip().endswith("in <module>"):
            return
        time.sleep(0.0005)


def main() -> None:
    """Live what is asked for until nobody asks any more."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # one that has not begun to keep a diary must not die of it
    print("ready", flush=True)
    while line := sys.stdin.readline():
        if not line.strip():
            continue
        job = json.loads(Path(line.strip()).read_text())
        if (pid := os.fork()) == 0:
            os._exit(live(job))
        print(pid, flush=True)
        print("ended", end_of(pid, job), flush=True)


if __name__ == "__main__":
    main()
