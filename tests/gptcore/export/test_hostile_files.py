"""Files made to harm: each is refused with words, under a cap of memory, in a process of its own."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gptcore.export.gguf import export_gguf
from gptcore.export.hf import export_hf
from gptcore.files import MANIFEST, file_sha256

READ = """
import resource, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from gptcore import checkpoint
from gptcore.errors import CheckpointError, GptcoreError
from gptcore.export.gguf import import_gguf
from gptcore.export.hf import import_hf
free = 400 * 2**20
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + free, used + free))
out = Path(sys.argv[1])
for line in sys.stdin.read().splitlines():
    kind, _, place = line.partition(" ")
    try:
        if kind == "gguf":
            import_gguf(Path(place), out)
        elif kind == "hf":
            import_hf(Path(place), out)
        else:
            checkpoint.load(Path(place))
        print("taken")
    except GptcoreError as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    except BaseException as error:
        print(f"{type(error).__name__}!! {error}")
"""
HUGE = 10**9


def read(lines: list[tuple[str, Path]], out: Path) -> list[str]:
    """What a process with little memory says of each place; ``!!`` marks an error that nobody meant."""
    text = "\n".join(f"{kind} {place}" for kind, place in lines)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(out)], input=text, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    return done.stdout.splitlines()


def test_hostile_gguf_files_are_refused(portable: Callable[..., Path], tmp_path: Path) -> None:
    whole = export_gguf(portable(), tmp_path / "gguf").file.read_bytes()
    llama = export_gguf(portable("llama"), tmp_path / "llama").file.read_bytes()
    name = b"token_embd.weight"
    at = whole.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)  # its number of dimensions stands here
    cases = {
        "empty": (b"", "cannot be read"),
        "other": (b"GGML" + whole[4:], "it does not begin with GGUF"),
        "version": (whole[:4] + struct.pack("<I", 99) + whole[8:], "it is of version 99"),
        "tensors": (whole[:8] + struct.pack("<Q", HUGE) + whole[16:], "promises 1,000,000,000 tensors"),
        "fields": (whole[:16] + struct.pack("<Q", 2**63) + whole[24:], "fields, for which the file is too short"),
        "name": (whole[:24] + struct.pack("<Q", 2**62) + whole[32:], "the most is 1,024"),
        "cut": (whole[: len(whole) // 2], "ends at byte|is damaged"),
        "head": (whole[:100], "is damaged at byte"),
        "dimensions": (_put(whole, at, "<I", HUGE), "a tensor has 1,000,000,000 dimensions"),
        "shape": (_put(whole, at + 4, "<Q", 2**60), "ends at byte"),
        "overflow": (_put(_put(whole, at + 4, "<Q", 2**40), at + 12, "<Q", 2**40), "ends at byte"),
        "kind": (_put(whole, at + 20, "<I", 12345), "a tensor is of kind 12345"),
        "offset": (_put(whole, at + 24, "<Q", 2**62), "ends at byte"),
        "blocks": (_field(whole, b"gpt2.block_count", HUGE), "promises 1,000,000,000 blocks"),
        "context": (_field(whole, b"gpt2.context_length", HUGE), "has shape|promises a model"),
        "width": (_field(whole, b"gpt2.embedding_length", 2**31), "has shape|promises a model"),
        "heads": (_field(llama, b"llama.attention.head_count", 7), "cannot be built"),
        "hidden": (_field(llama, b"llama.feed_forward_length", 2**31), "has shape|promises a model"),
        "words": (_field(llama, b"llama.vocab_size", 2**31), "has shape|promises a model"),
    }
    places = []
    for case, (content, _) in cases.items():
        places.append(("gguf", tmp_path / f"{case}.gguf"))
        places[-1][1].write_bytes(content)
    for (case, (_, message)), told in zip(cases.items(), read(places, tmp_path / "out"), strict=True):
        assert told.startswith("CheckpointError: "), (case, told)
        assert any(part in told for part in message.split("|")), (case, told)


def test_hostile_safetensors_and_json_are_refused(portable: Callable[..., Path], tmp_path: Path) -> None:
    source = portable("llama")
    folder = export_hf(source, tmp_path / "hf")
    (folder / MANIFEST).unlink()
    weights, config = (folder / "model.safetensors").read_bytes(), json.loads((folder / "config.json").read_text())
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    first = next(key for key in header if key != "__metadata__")

    def headed(told: object) -> bytes:
        text = json.dumps(told).encode()
        return struct.pack("<Q", len(text)) + text + weights[8 + int.from_bytes(weights[:8], "little") :]

    far = {**header, first: {**header[first], "data_offsets": [0, 2**62]}}
    wide = {**header, first: {**header[first], "shape": [2**62, 2**62]}}
    cases: dict[str, tuple[str, bytes, str]] = {
        "length": ("model.safetensors", struct.pack("<Q", 2**63) + weights[8:], "cannot be read"),
        "short": ("model.safetensors", weights[:-100], "cannot be read"),
        "offsets": ("model.safetensors", headed(far), "cannot be read"),
        "shape": ("model.safetensors", headed(wide), "cannot be read"),
        "list": ("model.safetensors", headed([1, 2]), "cannot be read"),
        "deep": ("config.json", b"[" * 200_000, "cannot be read"),
        "large": ("config.json", b" " * (65 * 2**20), "a file of this kind has at most"),
        "blocks": ("config.json", json.dumps({**config, "num_hidden_layers": HUGE}).encode(), "promises 1,000,000,000"),
        "words": ("config.json", json.dumps({**config, "vocab_size": 10**18}).encode(), "promises a model|has shape"),
        "number": ("config.json", b'{"model_type": "llama", "vocab_size": ' + b"9" * 10_000 + b"}", "cannot be read"),
        "null": ("config.json", b"null", "does not hold a JSON object"),
        "merges": ("merges.txt", b"\xff\xfe", "cannot be read"),
    }
    places = []
    for case, (file, content, _) in cases.items():
        place = tmp_path / f"hf-{case}"
        place.mkdir()
        for path in folder.iterdir():
            (place / path.name).write_bytes(content if path.name == file else path.read_bytes())
        places.append(("hf", place))
    for (case, (_, _, message)), told in zip(cases.items(), read(places, tmp_path / "out"), strict=True):
        assert told.startswith("CheckpointError: "), (case, told)
        assert any(part in told for part in message.split("|")), (case, told)


def test_a_checkpoint_that_promises_too_much_is_refused_and_a_whole_one_is_not(
    portable: Callable[..., Path], tmp_path: Path
) -> None:
    """Its manifest agrees with it: whoever made it could make that, too."""
    whole = portable("llama")
    places = [("checkpoint", whole)]
    for field, value in (("n_layers", HUGE), ("vocab_size", HUGE), ("context_length", HUGE), ("width", 4 * HUGE)):
        place = tmp_path / field
        shutil.copytree(portable(), place)
        spec = json.loads((place / "model.json").read_text())
        spec["model"][field] = value
        (place / "model.json").write_text(json.dumps(spec))
        manifest = json.loads((place / MANIFEST).read_text())
        size, digest = (place / "model.json").stat().st_size, file_sha256(place / "model.json")
        manifest["files"]["model.json"] = {"bytes": size, "sha256": digest}
        (place / MANIFEST).write_text(json.dumps(manifest))
        places.append(("checkpoint", place))
    taken, *refused = read(places, tmp_path / "out")
    assert taken == "taken"
    for told in refused:
        assert told.startswith("CheckpointError: "), told
        assert "promises" in told


def _put(content: bytes, at: int, letters: str, value: int) -> bytes:
    return content[:at] + struct.pack(letters, value) + content[at + struct.calcsize(letters) :]


def _field(content: bytes, name: bytes, value: int) -> bytes:
    """A field of 32 bits with another value; its name is followed by its type."""
    return _put(content, content.index(name) + len(name) + 4, "<I", value)
