"""Starting weights by name: a checkpoint folder, or OpenAI's GPT-2 from the Hugging Face hub at a pinned revision."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gptcore.checkpoint import read_spec
from gptcore.config import canonical_json, nearest
from gptcore.errors import ConfigError, DataError
from gptcore.export.gguf import import_gguf
from gptcore.export.hf import import_hf, read_hf_config
from gptcore.files import MANIFEST, file_sha256
from gptcore.models import PRESETS, WordNetworkConfig

HUB = "hf:"
SPEC = "model.json"
"""The file that makes a folder a checkpoint of this project."""
ADAPTER = "adapter.safetensors"
"""The weights of a folder that is an adapter alone."""
_FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json")
REVISIONS = {
    "openai-community/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "openai-community/gpt2-medium": "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "openai-community/gpt2-large": "32b71b12589c2f8d625668d2335a01cac3249519",
    "openai-community/gpt2-xl": "15ea56dee5df4983c59b2538573817e1667135e2",
}
"""The revision that each repository is taken at; another one is named as ``hf:REPO@REVISION``."""


def local_checkpoint(init: str, cache: Path) -> Path:
    """The checkpoint folder that ``init`` names; models that are imported are kept below ``cache``.

    It is a checkpoint folder, a folder that transformers wrote, ``hf:REPO`` or ``hf:REPO@REVISION``.

    Raises:
        ConfigError: a repository that is not pinned here is named without its revision.
        DataError: the path does not exist, or the hub cannot be reached.
    """
    if init.startswith(HUB):
        return _import_once(_download(*_on_hub(init)), cache)
    path = _folder(init)
    return path if _is_checkpoint(path) else _import_once(path, cache)


def model_folder(given: str, cache: Path) -> Path:
    """The checkpoint folder that a user means to talk to: more than ``local_checkpoint``, also a stage's whole output.

    Raises:
        ConfigError: the output holds several checkpoints, or the folder is an adapter without its base.
    """
    path = Path(given)
    if path.suffix == ".gguf" and path.is_file():
        return _import_once(path, cache)
    if given.startswith(HUB) or (path / "config.json").is_file():
        return local_checkpoint(given, cache)
    if (path / ADAPTER).is_file():
        raise ConfigError(f"{path} is an adapter alone; give the checkpoint beside it, {path.parent / 'checkpoint'}")
    inside = sorted({found.parent for depth in ("*", "*/*") for found in path.glob(f"{depth}/{SPEC}")})
    if _is_checkpoint(path) or not inside:
        return path  # what is wrong with a path without a checkpoint, the reader says
    if len(inside) > 1:
        raise ConfigError(f"{path} holds several checkpoints; give one of {', '.join(map(str, inside))}")
    return inside[0]


def starting_digest(init: str) -> str:
    """What names the weights behind ``init``: the repository's revision, or a sha256 (hex) of the folder's contents.

    Raises:
        DataError: the path does not exist.
    """
    if init.startswith(HUB):
        return "@".join(_on_hub(init))
    return _digest(_folder(init))


def starting_sizes(init: str) -> WordNetworkConfig | None:
    """The sizes of the model behind ``init``, as far as they are known without a download.

    Raises:
        DataError: the path does not exist.
        CheckpointError: the folder holds another kind of model.
    """
    if init.startswith(HUB):
        repository = _on_hub(init)[0]
        name = repository.partition("/")[2] if repository in REVISIONS else ""
        return PRESETS.get("gpt2-small" if name == "gpt2" else name)  # the smallest has no size in its name there
    folder = _folder(init)
    return read_spec(folder).words if _is_checkpoint(folder) else read_hf_config(folder)


def _on_hub(init: str) -> tuple[str, str]:
    repository, _, revision = init.removeprefix(HUB).partition("@")
    if not revision and repository not in REVISIONS:
        raise ConfigError(
            f"--init {init} names no revision, and weights that may change tomorrow cannot be repeated; "
            f"write {HUB}{repository}@COMMIT{nearest(repository, REVISIONS)}"
        )
    return repository, revision or REVISIONS[repository]


def _folder(init: str) -> Path:
    path = Path(init)
    if not path.is_dir():
        raise DataError(
            f"--init {init}: no such folder; give a checkpoint folder, a folder that transformers wrote, or "
            "hf:openai-community/gpt2 (prepare.tokenizer also takes bpe and gpt2)"
        )
    return path


def _is_checkpoint(folder: Path) -> bool:
    return (folder / SPEC).is_file()


def _digest(folder: Path) -> str:
    if _is_checkpoint(folder) and (folder / MANIFEST).is_file():
        return file_sha256(folder / MANIFEST)  # which holds the sha256 of every file
    files = {name: file_sha256(folder / name) for name in _FILES if (folder / name).is_file()}
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()


def _import_once(model: Path, cache: Path) -> Path:
    """A folder by transformers, or a GGUF file, as a checkpoint; the same one is not imported again."""
    digest, read = (_digest(model), import_hf) if model.is_dir() else (file_sha256(model), import_gguf)
    out = cache / "imported" / f"{model.name.removesuffix('.gguf')}-{digest[:16]}"
    return out if (out / MANIFEST).is_file() else read(model, out)


def _download(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{repository}@{revision} could not be fetched from the Hugging Face hub ({type(error).__name__}); "
            "check the network, or download the folder elsewhere and give its path by --init"
        ) from error
