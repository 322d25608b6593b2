"""Files and folders that exist whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcore.errors import CheckpointError, DataError, OutOfDiskError
from gptcore.files import (
    MANIFEST,
    clear_leftovers,
    disk_errors,
    file_sha256,
    free_bytes,
    is_disk_full,
    remove_folder,
    verify_folder,
    whole_folder,
    write_json,
    write_text,
)

SMALL_FILES_ONLY = """
import resource, sys
from pathlib import Path
from gptcore.errors import OutOfDiskError
from gptcore.files import whole_folder, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
out = Path(sys.argv[1])
for write in (lambda: write_text(out / "text.txt", "x" * 5000), lambda: fill(out / "folder")):
    def fill(folder):
        with whole_folder(folder) as partial:
            (partial / "small").write_text("fits")
            (partial / "large").write_bytes(b"x" * 5000)
    try:
        write()
    except OutOfDiskError as error:
        print(error)
"""


def make_folder(path: Path, content: str = "hello") -> Path:
    with whole_folder(path) as partial:
        (partial / "sub").mkdir()
        (partial / "a.txt").write_text(content)
        (partial / "sub" / "b.bin").write_bytes(bytes(range(256)))
    return path


def test_a_text_is_replaced_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "one")
    write_text(tmp_path / "new" / "a.txt", "zwei é")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "zwei é"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_json_is_written_sorted_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "é", "a": [1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "a": [\n  1\n ],\n "b": "é"\n}\n'


def test_a_finished_folder_has_a_manifest_of_everything_in_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    entries = json.loads((folder / MANIFEST).read_text())["files"]
    assert entries.keys() == {"a.txt", "sub/b.bin"}
    assert entries["a.txt"] == {"bytes": 5, "sha256": file_sha256(folder / "a.txt")}
    assert verify_folder(folder, CheckpointError) == file_sha256(folder / MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    first = verify_folder(make_folder(tmp_path / "out", "hello"), DataError)
    second = verify_folder(make_folder(tmp_path / "out", "other"), DataError)
    assert first != second
    assert (tmp_path / "out" / "a.txt").read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_while_writing_leaves_the_older_folder_and_nothing_else(tmp_path: Path) -> None:
    make_folder(tmp_path / "out")

    def fail() -> None:
        with whole_folder(tmp_path / "out") as partial:
            (partial / "a.txt").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert (tmp_path / "out" / "a.txt").read_text() == "hello"
    verify_folder(tmp_path / "out", DataError)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_all_of_a_folder_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, flushed: dict[int, os.stat_result], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, seen = os.rename, []

    def renamed(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "out":
            assert (Path(source) / MANIFEST).is_file()
            for path in (Path(source), *Path(source).rglob("*")):
                assert flushed[path.stat().st_ino].st_mtime_ns == path.stat().st_mtime_ns, path
                seen.append(path.name)
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    make_folder(tmp_path / "out")
    assert {"a.txt", "sub", "b.bin", MANIFEST} < set(seen)
    assert flushed[tmp_path.stat().st_ino].st_mtime_ns == tmp_path.stat().st_mtime_ns


def test_a_folder_is_replaced_where_a_killed_process_of_the_same_number_left_the_older_one(tmp_path: Path) -> None:
    make_folder(tmp_path / "out", "hello")
    make_folder(tmp_path / f"out.old-{os.getpid()}", "older")
    make_folder(tmp_path / f"out.tmp-{os.getpid()}", "half")
    make_folder(tmp_path / "out", "other")
    assert (tmp_path / "out" / "a.txt").read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers_of_killed_writers_are_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    for name in ("out", "out.tmp-1", "out.old-2"):
        make_folder(tmp_path / name)
    for name in ("a.json", "a.json.tmp-77"):
        (tmp_path / name).write_text("{}")
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "out"]
    remove_folder(tmp_path / "out")
    remove_folder(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin"])
def test_one_flipped_bit_is_noticed_and_the_file_named(tmp_path: Path, name: str) -> None:
    file = make_folder(tmp_path / "out") / name
    content = bytearray(file.read_bytes())
    content[2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} does not match the sha256 in its manifest; it is damaged"):
        verify_folder(tmp_path / "out", DataError)


def test_other_damage_is_named_too(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    (folder / "a.txt").write_text("hell")
    with pytest.raises(DataError, match=r"a\.txt has 4 bytes, its manifest says 5; it is damaged"):
        verify_folder(folder, DataError)
    (folder / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt is missing; restore it or make out again"):
        verify_folder(folder, DataError)
    (folder / MANIFEST).write_text('{"files": ')
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        verify_folder(folder, DataError)
    (folder / MANIFEST).write_text('{"files": {"a.txt": {"size": 5}}}')
    with pytest.raises(
        DataError, match=r"manifest\.json is damaged, or that of another kind of folder \(KeyError: 'by"
    ):
        verify_folder(folder, DataError)
    (folder / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json: it was never finished"):
        verify_folder(folder, DataError)
    with pytest.raises(CheckpointError, match=r"nowhere is not a folder; check the path"):
        verify_folder(tmp_path / "nowhere", CheckpointError)


def test_a_full_disk_is_told_with_the_path_and_the_bytes(tmp_path: Path) -> None:
    message = r"out could not be written: No space left on device \(1,234 bytes are needed, [\d,]+ bytes are free\)"
    with pytest.raises(OutOfDiskError, match=message), disk_errors(tmp_path / "out", needed=1234):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), disk_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_quota_and_size_limits_count_as_a_full_disk_too() -> None:
    assert all(is_disk_full(OSError(number, "")) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    assert not is_disk_full(OSError(errno.EIO, ""))


def test_free_bytes_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_a_file_that_cannot_grow_leaves_nothing_behind(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SMALL_FILES_ONLY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    told = result.stdout.splitlines()
    assert len(told) == 2
    assert all(
        "could not be written: File too large" in line and "nothing half-written was kept" in line for line in told
    )
    assert list(tmp_path.iterdir()) == []
