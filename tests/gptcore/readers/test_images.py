"""Image readers: pixels to numbers, and a folder that says how."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptcore.errors import ConfigError, DataError
from gptcore.readers import ImageReader

COLOUR = ImageReader(size=4, channels=3, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))


def test_pixels_are_scaled_by_channel_and_the_channel_comes_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    read = COLOUR.read(pixels)
    assert (read.shape, read.dtype) == ((3, 4, 4), torch.float32)
    for channel in range(3):
        wanted = (pixels[:, :, channel] / 255 - COLOUR.mean[channel]) / COLOUR.std[channel]
        assert read[channel].numpy() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 1), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_an_image_of_another_shape_or_dtype_is_refused(pixels: Any) -> None:
    with pytest.raises(DataError, match=r"expected an image of uint8 \(4, 4, 3\), got (uint8|float32) \(\d, 4, \d\)"):
        COLOUR.read(pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size and channels of at least 1, got 0 and 3"),
        ({"channels": 1}, r"mean to be 1 finite numbers, got \(0.5, 0.25, 0.0\)"),
        ({"mean": (0.0, 0.0, float("nan"))}, "mean to be 3 finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
    ],
)
def test_an_impossible_reader_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(COLOUR, **change)


def test_a_reader_survives_its_folder_and_every_setting_is_part_of_its_digest(tmp_path: Path) -> None:
    COLOUR.save(tmp_path)
    assert ImageReader.load(tmp_path) == COLOUR
    assert ImageReader.load(tmp_path).digest == COLOUR.digest
    grey = ImageReader(4, 1, mean=(0,), std=(1,))
    assert grey.digest == ImageReader(4, 1, mean=(0.0,), std=(1.0,)).digest
    others = [{"size": 5}, {"mean": (0.5, 0.25, 0.1)}, {"std": (0.5, 0.25, 1.0)}]
    digests = {dataclasses.replace(COLOUR, **change).digest for change in others} | {COLOUR.digest, grey.digest}
    assert len(digests) == 5


@pytest.mark.parametrize("change", [{"size": 5}, {"mean": [0.1]}, {"std": "many"}, {"channels": None}])
def test_a_damaged_folder_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    COLOUR.save(tmp_path)
    file = tmp_path / "reader.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=r"image reader"):
        ImageReader.load(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"reader\.json cannot be read"):
        ImageReader.load(tmp_path)
