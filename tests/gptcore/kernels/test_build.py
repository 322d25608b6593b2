"""Building: once for all processes, again when anything changes, and a clear word where it cannot be."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcore.errors import ConfigError
from gptcore.kernels import native as module
from gptcore.kernels.build import build_library, cache_folder, find_compiler, openmp_runtime
from gptcore.kernels.native import Native, load_kernels


@pytest.fixture
def compiler() -> str:
    """The compiler; a skip where there is none."""
    try:
        return find_compiler()
    except ConfigError as error:
        pytest.skip(str(error))


def test_processes_that_start_together_build_once_and_another_processor_is_another_library(
    compiler: str, tmp_path: Path
) -> None:
    code = "import torch; from gptcore.kernels.build import build_library as b; print(b().stat().st_ino)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": compiler}
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = {process.communicate(timeout=120)[0].strip() for process in both}
    assert len(told) == 1
    assert told != {""}
    folder = tmp_path / "gptworks" / "kernels"
    lock, library = sorted(folder.iterdir())
    assert (lock.suffix, library.suffix) == (".lock", ".so")
    before = library.stat().st_mtime_ns
    assert build_library(folder=folder) == library
    assert library.stat().st_mtime_ns == before
    assert build_library(target=(), folder=folder) != library


def test_the_openmp_runtime_is_torchs_own_whatever_is_loaded_besides() -> None:
    code = (
        "from gptcore.kernels.build import openmp_runtime\nprint(openmp_runtime())\n"
        "import sklearn.linear_model\nprint(openmp_runtime())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    before, after = done.stdout.splitlines()
    assert before == after


def test_one_openmp_runtime_serves_torch_and_the_kernels(compiler: str) -> None:
    if openmp_runtime() is None:
        pytest.skip("torch uses no OpenMP runtime here, or the system does not tell which")
    Native(build_library())
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    loaded = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line and "torch" in maps}
    assert len({path for path in loaded if "torch" in path or "/usr/" in path}) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-compiler", "no C\\+\\+ compiler: no-such-compiler is not on the PATH; install one"),
        ("false", "false failed with exit code 1: no output"),
    ],
)
def test_a_compiler_that_is_missing_or_fails_is_told(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", name)
    with pytest.raises(ConfigError, match=message):
        build_library(folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"] * (name == "false")


def test_a_folder_that_cannot_be_written_is_told(compiler: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be built in .*file/kernels .*XDG_CACHE_HOME"):
        build_library(folder=tmp_path / "file" / "kernels")


def test_without_kernels_inference_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    load_kernels.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert load_kernels() is None
            assert load_kernels() is None
    finally:
        load_kernels.cache_clear()
    assert [record.getMessage() for record in caplog.records if "without its kernels" in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_a_damaged_library_is_told(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"not a library")
    with pytest.raises(ConfigError, match=r"damaged\.so cannot be loaded .*delete it, and it is built again"):
        Native(damaged)


def test_the_cache_folder_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "gptworks" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "gptworks" / "kernels"


def test_what_python_passes_is_laid_out_as_the_kernels_read_it(compiler: str, tmp_path: Path) -> None:
    source = tmp_path / "sizes.cpp"
    kernels = Path(module.__file__).parent / "inference.cpp"
    source.write_text(
        f'#include "{kernels}"\n'
        'extern "C" void sizes(long* out) { out[0] = sizeof(Matrix); out[1] = sizeof(Norm); out[2] = sizeof(Block); '
        "out[3] = sizeof(Cache); out[4] = offsetof(Block, n_heads); }\n"
    )
    library = tmp_path / "sizes.so"
    subprocess.run(
        [compiler, "-std=c++17", "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(library)], check=True
    )
    out = (ctypes.c_long * 5)()
    ctypes.CDLL(str(library)).sizes(out)
    structures = (module._Matrix, module._Norm, module._Block, module._Cache)
    assert list(out) == [*map(ctypes.sizeof, structures), module._Block.n_heads.offset]
