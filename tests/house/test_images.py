"""A network that reads images is trained, saved, resumed and refused without any tokenizer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptcore import checkpoint
from gptcore.batch import Batch
from gptcore.checkpoint import ModelSpec
from gptcore.classifier import TextClassifier
from gptcore.data.base import Data, shuffle_order
from gptcore.errors import CheckpointError, ConfigError, TokenizerMismatch
from gptcore.objectives import Classify
from gptcore.readers import ImageReader
from gptcore.run import Run
from gptcore.tokenizer import train_bpe
from gptcore.train import MemoryLogger, TrainConfig
from gptcore.transforms import Classifier
from tests.house.networks import HouseViewerConfig

READER = ImageReader(size=4, channels=1, mean=(0.5,), std=(0.25,))
PIXELS = np.random.default_rng(0).integers(0, 256, size=(12, 4, 4, 1), dtype=np.uint8)
BRIGHT = (PIXELS.mean(axis=(1, 2, 3)) > 127).astype(np.int64)


SIZES = HouseViewerConfig(size=4, channels=1)
HEAD = Classifier(labels=("dark", "bright"), train="all")


@dataclass(frozen=True)
class Tiles(Data):
    """The pixels above, read by the reader of a folder."""

    images: Path

    def open(self) -> TileSource:
        return TileSource(ImageReader.load(self.images))


class TileSource:
    """Opened tiles."""

    n_samples = len(PIXELS)
    fingerprint = "tiles"
    tokenizer_digest = ""
    context_length = 0
    text_size = None

    def __init__(self, reader: ImageReader) -> None:
        self.images_digest, self.limits = reader.digest, reader.limits
        self._pixels = torch.stack([reader.read(image) for image in PIXELS])

    def order(self, *, epoch: int, seed: int, **_: int) -> np.ndarray[Any, Any]:
        return shuffle_order(self.n_samples, seed=seed, epoch=epoch)

    def batch(self, indices: Sequence[int], **_: Any) -> Batch:
        chosen = torch.as_tensor(np.asarray(indices))
        classes = torch.from_numpy(BRIGHT)[chosen]
        return Batch({"pixels": self._pixels[chosen]}, {"classes": classes}, n_tokens=len(chosen))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    READER.save(tmp_path / "images")
    data = Tiles(tmp_path / "images")

    def build(**changes: Any) -> Run:
        train = TrainConfig(steps=4, batch_size=4, checkpoint_every=2, eval_every=2, **changes.pop("train", {}))
        settings = {"model": SIZES, "transforms": (HEAD,), "images": tmp_path / "images", **changes}
        return Run(data=data, held_out=data, objective=Classify(), train=train, **settings)

    return build


def test_an_image_networks_checkpoint_has_its_reader_and_no_tokenizer(run: Callable[..., Run], tmp_path: Path) -> None:
    first = run()
    path = first.execute(tmp_path / "out", MemoryLogger()).path
    assert sorted(each.name for each in path.iterdir() if each.is_dir()) == ["images"]
    loaded = checkpoint.load(path)
    assert loaded.readers.images == READER
    assert loaded.spec.readers == {"images": READER.digest}
    assert Run.from_dict(json.loads((tmp_path / "out" / "run.json").read_text())) == first
    further = run(model=None, transforms=(), init=path).execute(tmp_path / "further", MemoryLogger()).path
    assert checkpoint.load(further).readers.images == READER


def test_an_image_run_killed_and_started_again_ends_with_the_same_bits(run: Callable[..., Run], tmp_path: Path) -> None:
    whole = run().execute(tmp_path / "whole", MemoryLogger()).path
    with pytest.raises(KeyboardInterrupt):
        run().execute(tmp_path / "parts", MemoryLogger(), on_progress=stop_at_three)
    parts = run().execute(tmp_path / "parts", MemoryLogger()).path
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def stop_at_three(progress: Any) -> None:
    if progress.step == 3:
        raise KeyboardInterrupt


def test_text_is_not_asked_of_an_image_network(run: Callable[..., Run], tmp_path: Path) -> None:
    path = run().execute(tmp_path / "out", MemoryLogger()).path
    with pytest.raises(ConfigError, match="expected a model that reads text, got a HouseViewerConfig"):
        TextClassifier.load(path)
    with pytest.raises(ConfigError, match="that reads text, got one that reads images-4x4x1; it has no tokenizer"):
        _ = checkpoint.load(path).tokenizer
    with pytest.raises(ConfigError, match=r"can generate text for train\.sample_prompts, got a HouseViewer"):
        run(train={"sample_prompts": ("Once",)}).execute(tmp_path / "prompts", MemoryLogger())


def test_images_read_in_another_way_are_refused(run: Callable[..., Run], tmp_path: Path) -> None:
    path = run().execute(tmp_path / "out", MemoryLogger()).path
    other = dataclasses.replace(READER, mean=(0.4,))
    other.save(tmp_path / "other")
    with pytest.raises(TokenizerMismatch, match=rf"made with images {READER.digest[:12]}, this run uses images-4x4x1"):
        run(images=tmp_path / "other").execute(tmp_path / "a", MemoryLogger())
    further = run(model=None, transforms=(), init=path, images=tmp_path / "other")
    moved = dataclasses.replace(further, data=Tiles(tmp_path / "other"), held_out=None)
    with pytest.raises(
        TokenizerMismatch, match=rf"trained with images images-4x4x1 \({READER.digest[:12]}\), the data"
    ):
        moved.execute(tmp_path / "b", MemoryLogger())


def test_a_run_without_any_reader_is_refused(run: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match="expected tokenizer or images, got neither"):
        run(images=None)


@pytest.mark.parametrize("named", [(), ("tokenizer",), ("images",), ("tokenizer", "images")])
@pytest.mark.parametrize("there", [(), ("tokenizer",), ("images",), ("tokenizer", "images")])
def test_a_checkpoint_has_exactly_the_readers_that_it_names(
    tmp_path: Path, named: tuple[str, ...], there: tuple[str, ...]
) -> None:
    readers = {"tokenizer": train_bpe(["a word"], vocab_size=257), "images": READER}
    spec = ModelSpec(SIZES, **{f"{name}_digest": readers[name].digest for name in named})
    given: dict[str, Any] = {name: readers[name] for name in there}
    checkpoint.save(tmp_path / "c", model=SIZES.build(), spec=spec, **given)
    if named == there and named:
        assert checkpoint.load(tmp_path / "c").readers.digests() == spec.readers
    else:
        with pytest.raises(
            CheckpointError, match=r"c: model\.json was written for (tokenizer|images) \w+, but the fol"
        ):
            checkpoint.load(tmp_path / "c")
