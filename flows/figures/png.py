"""Figures that people look at: loss curves, the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


def loss_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Training and held-out loss over the optimizer steps."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in (("train/loss", "training"), ("val/loss", "held out")):
        points = [(line["step"], line[name]) for line in history if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if name == "val/loss" else "", markersize=3)
    axes.set(xlabel="optimizer step", ylabel="loss, nats")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def confusion_figure(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Rows: the true class; columns: the class that was told; shade: share of the row."""
    size = 2.5 + 0.5 * len(labels)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    shares = [[cell / max(1, sum(row)) for cell in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(confusion):
        for j, cell in enumerate(row):
            axes.text(j, i, str(cell), ha="center", va="center", color="white" if shares[i][j] > 0.5 else "black")
    # a class may be called anything: a dollar sign is no formula
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set(xlabel="told", ylabel="true")
    return figure
