"""Figures: the curves and the matrix show the numbers they were given."""

from __future__ import annotations

import io

import pytest

from flows.figures.svg import confusion_figure, loss_figure


def test_the_loss_figure_draws_each_curve_at_its_steps() -> None:
    history = [
        {"step": 1, "train/loss": 4.0},
        {"step": 2, "train/loss": 3.0, "val/loss": 3.5},
        {"step": 4, "val/loss": 2.5},
    ]
    (axes,) = loss_figure(history).axes
    curves = {line.get_label(): [tuple(map(float, point)) for point in line.get_xydata()] for line in axes.get_lines()}
    assert curves == {"training": [(1, 4), (2, 3)], "held out": [(2, 3.5), (4, 2.5)]}
    assert axes.get_ylabel() == "loss, nats"


def test_a_run_without_held_out_data_has_one_curve() -> None:
    (axes,) = loss_figure([{"step": 1, "train/loss": 4.0}]).axes
    assert [line.get_label() for line in axes.get_lines()] == ["training"]


def test_the_confusion_figure_writes_every_count_and_shades_by_row() -> None:
    figure = confusion_figure([[9, 1], [0, 0]], ["ham", "$pam <b>"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["9", "1", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ham", "$pam <b>"]
    assert [patch.get_alpha() for patch in axes.patches] == pytest.approx([0.455, 0.095, 0.05, 0.05])


@pytest.mark.parametrize("labels", [["a", "b"], ["$x", "$\\frac$"]])
def test_figures_can_be_written_whatever_the_classes_are_called(labels: list[str]) -> None:
    out = io.BytesIO()
    confusion_figure([[1, 2], [3, 4]], labels).savefig(out, format="png")
    assert out.getvalue().startswith(b"\x89PNG")
