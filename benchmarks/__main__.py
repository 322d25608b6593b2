"""Every work in turn: ``python -m benchmarks``; options that all works take are passed on to each.

Works of several hours' worth of figures can be run one at a time: ``python -m benchmarks.pretrain --help``.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.options import ROOT, shared_parser

WORKS = (
    ("benchmarks.pretrain", "--size", "124m"),
    ("benchmarks.pretrain", "--size", "6x384"),
    ("benchmarks.classify",),
    ("benchmarks.instruct",),
    ("benchmarks.lora",),
    ("benchmarks.checkpoint",),
    ("benchmarks.growth",),
    ("benchmarks.optimizers",),
    ("benchmarks.judge",),
    ("benchmarks.tracking",),
    ("benchmarks.decode", "--what", "batch-1"),
    ("benchmarks.decode", "--what", "batch-32"),
    ("benchmarks.decode", "--what", "classify"),
)
"""Module of each work with the options that choose it."""


def main() -> None:
    """Run all; a work that fails does not keep the others from running, but the exit code tells."""
    given = sys.argv[1:]
    shared_parser(str(__doc__), steps=1).parse_args(given)  # refuses what no work knows, and answers --help
    failed = []
    for module, *options in WORKS:
        sys.stderr.write(f"== {' '.join([module, *options])}\n")
        sys.stderr.flush()
        if subprocess.run([sys.executable, "-m", module, *options, *given], cwd=ROOT, check=False).returncode:
            failed.append(" ".join([module, *options]))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
