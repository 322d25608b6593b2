"""Bad input through the command line: one message that says what to do, its exit code, and no finished output."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli.entry import main
from flows.settings import read_settings
from gptcore.data.ledger import Ledger

pytestmark = [pytest.mark.flows, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def home(tracked_home: Path) -> Iterator[Path]:
    """The project's folder for this module, named in the environment and nowhere else."""
    # Prefect sets up logging when it is imported; absl, which came before it, then closes the stream of its handler,
    # and that would be pytest's own if it happened while capsys stands in for it
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    importlib.import_module("prefect.main")
    before = dict(os.environ)
    os.environ |= {"GPTWORKS_HOME": str(tracked_home), "OLLAMA_HOST": f"127.0.0.1:{free_port()}"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield tracked_home
    os.environ.clear()
    os.environ.update(before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def labelled(path: Path, *, labels: str = "ab", n: int = 60) -> Path:
    rows = [
        {"text": f"the row number {i} of a file with {n} rows about {hex(i * 7919)}", "label": labels[i % len(labels)]}
        for i in range(n)
    ]
    return write_rows(path, rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and message (its white space made even) of a command that must fail."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = capsys.readouterr().err
    assert "Traceback" not in told, told
    assert told.count("error:") == 1, told
    assert isinstance(end.value.code, int)
    return end.value.code, " ".join(told.split())


def check_nothing_finished(home: Path) -> None:
    finished = list(home.glob("store/*/*/manifest.json"))
    assert finished == []
    assert list(home.rglob("*.tmp-*")) == []


def prepare(capsys: pytest.CaptureFixture[str], home: Path, *options: str, code: int = 3) -> str:
    """The message of ``prepare-data`` on input that it must refuse."""
    found, told = refusal(capsys, "prepare-data", "--preset", "tiny", *options)
    assert found == code, told
    check_nothing_finished(home)
    return told


def test_a_missing_file_is_named_with_the_options_that_give_one(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "not/yet/there"))
    missing = tmp_path / "rows.jsonl"
    told = prepare(capsys, home, "--labelled", str(missing))
    expected = f"{missing} does not exist; check the path given by --corpus, --labelled or --instructions"
    assert told == f"error: DataError: {expected}"
    # Prefect itself makes only the last folder of its path
    assert (tmp_path / "not/yet/there").is_dir()


def test_an_empty_file_is_named(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert f"{empty} is empty (0 bytes); give a file with content" in prepare(capsys, home, "--labelled", str(empty))


def test_an_unreadable_file_is_named(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unreadable = tmp_path / "closed.jsonl"
    if os.geteuid() != 0:
        labelled(unreadable).chmod(0)
    elif Path("/proc/self/mem").exists():  # root reads whatever has a mode; only the kernel refuses it something
        unreadable.symlink_to("/proc/self/mem")
    else:
        pytest.skip("root can read every file here")
    told = prepare(capsys, home, "--labelled", str(unreadable))
    assert re.search(rf"{unreadable} cannot be read \([\w/ ]+\); check the path and its permissions$", told)


def test_text_that_is_not_utf_8_is_told_with_the_byte_and_the_command_that_converts_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = tmp_path / "notes.txt"
    latin.write_bytes("A café in the middle of the text".encode("latin-1"))
    told = prepare(capsys, home, "--corpus", str(latin))
    assert f"{latin} is not UTF-8: byte 0xe9 at offset 5; convert it, for example `iconv -f LATIN1 -t UTF-8`" in told


def test_a_broken_line_is_named_by_its_number(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = labelled(tmp_path / "rows.jsonl")
    lines = path.read_text().splitlines()
    lines[16] = '{"text": "cut off'
    path.write_text("\n".join(lines))
    told = prepare(capsys, home, "--labelled", str(path))
    assert f"{path}, line 17: broken JSON at column 10 (Unterminated string starting at); correct or remove it" in told


def test_rows_without_the_needed_keys_are_told_with_the_keys_they_have(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"message": "hello", "sort": "ham"}])
    told = prepare(capsys, home, "--labelled", str(path))
    assert f"{path}, line 1: the key 'text' is missing; the keys found are 'message', 'sort'" in told
    told = prepare(capsys, home, "--instructions", str(path))
    assert f"{path}, line 1: the key 'instruction' is missing; the keys found are 'message', 'sort'" in told


def test_rows_of_one_class_are_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = labelled(tmp_path / "rows.jsonl", labels="a")
    told = prepare(capsys, home, "--labelled", str(path), "--set", "prepare.near_duplicates=none")
    assert re.search(r"all \d+ training rows have the label 'a'; a classifier needs rows of two classes or more", told)


def test_a_label_that_training_never_saw_is_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in labelled(tmp_path / "rows.jsonl").read_text().splitlines()]
    # the hash of this text puts it among the test rows
    path = write_rows(tmp_path / "rare.jsonl", [*rows, {"text": "something else 6", "label": "rare"}])
    told = prepare(capsys, home, "--labelled", str(path), "--set", "prepare.near_duplicates=none")
    assert told.endswith(
        "the label 'rare' was never seen in training: all its 1 rows fell into test; "
        "add rows of that label or leave it out"
    )


def test_a_file_of_another_sha256_is_refused_with_the_url_and_the_option(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "the-verdict.txt").write_text("I HAD always thought Jack Gisburn rather a cheap genius")
    code, told = refusal(capsys, "prepare-data", "--preset", "book", "--data-dir", str(tmp_path))
    assert code == 3
    assert re.search(r"the-verdict\.txt: expected sha256 b41e41a6[0-9a-f]{56} of the-verdict, got [0-9a-f]{64};", told)
    assert re.search(r"download it again from https://\S+/the-verdict\.txt, or leave --data-dir out$", told)
    code, told = refusal(capsys, "prepare-data", "--preset", "book", "--data-dir", str(tmp_path / "none"))
    assert code == 3
    assert f"--data-dir {tmp_path / 'none'} must hold the-verdict.txt (from https://" in told
    check_nothing_finished(home)


def test_without_a_network_the_url_and_the_option_that_does_without_are_told(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    code, told = refusal(capsys, "prepare-data", "--preset", "book")
    assert code == 3
    assert "the-verdict.txt could not be downloaded from https://raw.githubusercontent.com/" in told
    assert told.endswith("check the network, or put the file into a folder and give that by --data-dir")
    check_nothing_finished(home)
    assert list((home / "cache").iterdir()) == []


def test_a_refused_stage_leaves_its_tracked_run_failed_with_the_reason(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.tracking.runs import connect

    path = write_rows(tmp_path / "rows.jsonl", [{"text": "only a text"}])
    prepare(capsys, home, "--labelled", str(path))
    client = connect(read_settings())
    experiment = client.get_experiment_by_name("gptworks/prepare-data")
    assert experiment is not None
    newest, *_ = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    assert newest.info.status == "FAILED"
    assert newest.data.tags["gptworks.failure"].startswith(f"DataError: {path}, line 1: the key 'label' is missing")


def test_texts_shorter_than_the_context_are_told_with_both_lengths(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labelled(tmp_path / "rows.jsonl")
    longer = ("--set", "pretrain.model.context_length=5000", "--set", "prepare.near_duplicates=none")
    code, told = refusal(capsys, "pretrain", "--preset", "tiny", "--labelled", str(path), *longer)
    assert code == 3
    assert re.search(r"shorter than the context: \d+ documents give [\d,]+ tokens, one window needs 5,001", told)
    assert told.endswith("add text or lower context_length")
    finished = [manifest.parent.parent.name for manifest in home.glob("store/*/*/manifest.json")]
    assert finished == ["prepare-data"]
    remove_finished(home)


def remove_finished(home: Path) -> None:
    for manifest in home.glob("store/*/*/manifest.json"):
        shutil.rmtree(manifest.parent)


def test_all_messages_with_stray_quotes_are_read_balanced_and_free_of_leaks(
    home: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["prepare-data", "--preset", "book", "--data-dir", str(shared_data)])
    assert not end.value.code, capsys.readouterr().err
    (folder,) = (path.parent for path in home.glob("store/prepare-data/*/manifest.json"))
    ledger = Ledger.load(folder / "ledger.json")
    ledger.check()
    assert ledger.total("in", stage="classify: clean") == 5_574
    assert ledger.total("in", stage="instruct: clean") == 1_100

    texts: dict[str, set[str]] = {}
    labels: Counter[str] = Counter()
    for split in ("train", "val", "test"):
        rows = [json.loads(line) for line in (folder / f"classify/{split}.jsonl").read_text("utf-8").splitlines()]
        texts[split] = {row["text"] for row in rows}
        labels.update(row["label"] for row in rows)
        assert len(texts[split]) == len(rows)
    assert texts["train"].isdisjoint(texts["val"] | texts["test"])
    assert texts["val"].isdisjoint(texts["test"])
    assert labels["ham"] == labels["spam"]
    lines = (shared_data / "SMSSpamCollection").read_text("utf-8").split("\n")
    distinct = {line.partition("\t")[2] for line in lines if line.startswith("spam\t")}
    # of 747 there are fewer distinct ones, and fewer still that are not nearly alike
    assert 0.8 * len(distinct) < labels["spam"] <= len(distinct) < 747
    assert ledger.total("kept", stage="classify: balance") == 2 * labels["spam"]
    parts = json.loads((folder / "manifest.json").read_text())["result"]["parts"]
    assert parts["classify"]["leaks"] == parts["instruct"]["leaks"] == 0
    remove_finished(home)
