"""A part of the data that lives in this file alone goes where the two of the product go, by its registration."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.chain.engine import Chain
from flows.chain.request import OwnData, configuration
from flows.cli.entry import main
from flows.gate.items import evaluation_set
from flows.launch.launch import Launch
from flows.progress import progress_bar
from flows.recipes.grown import Grown, with_added_data
from flows.recipes.resolve import resolve
from flows.report.page import write_report
from flows.settings import read_settings
from flows.sources.added import DataFolder
from flows.sources.base import Places, Row, SourceConfig
from flows.sources.files import Files
from flows.sources.parts import Part, describe_lack, list_parts, register_part, use_part
from flows.stages.context import Inputs
from flows.stages.every import STAGES
from flows.stages.outcome import Outcome, PipelineReport
from flows.stages.pipeline import Pipeline
from flows.stages.prepare import body as preparation
from flows.stages.prepare.result import PrepareResult
from flows.stages.registry import use_stage
from flows.stages.unread import describe_unread
from gptcore.data import Document
from gptcore.data.ledger import Ledger
from gptcore.errors import ConfigError, DataError
from gptcore.files import read_json_lines

PAIRS = Part(
    "pairs",
    "--pairs-of-texts",
    "pairs of texts",
    keys=("first", "second", "label"),
    identity=("first", "second"),
    content=("first", "second"),
    label="label",
)
N_PAIRS, N_NEAR, N_EQUAL = 60, 3, 2
UNREAD = "pairs of texts are prepared, and no stage reads them"
RunCommand = Callable[..., str]


@pytest.fixture
def part() -> Iterator[Part]:
    """The part, in the table until the test's end."""
    with use_part(PAIRS) as pairs:
        yield pairs


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nothing is yet."""
    for name, value in {"GPTWORKS_HOME": str(tmp_path / "var"), "OLLAMA_HOST": "127.0.0.1:9", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "var"


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str], home: Path) -> RunCommand:
    """What a command prints, its white space made even."""

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        text = " ".join(re.sub(r"[│╭╰╮╯─]", " ", printed.out + printed.err).split())
        assert (end.value.code or 0) == code, text
        return text

    return run


def text_of(seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"word{draw.randrange(999)}" for _ in range(24))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Sixty pairs, then three that are nearly as earlier ones are, and two that are equal to earlier ones."""
    rows = [{"first": text_of(2 * i), "second": text_of(2 * i + 1), "label": "ny"[i % 2]} for i in range(N_PAIRS)]
    near = [{**row, "second": f"{row['second']} dawn"} for row in rows[:N_NEAR]]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *near, *rows[-N_EQUAL:]]))
    return path


def prepared(source: SourceConfig, folder: Path, *overrides: str) -> PrepareResult:
    """What a source's preparation hands on, whose files are in ``folder``."""
    config = resolve("tiny", overrides=["prepare.vocab_size=300", *overrides])
    config = replace(config, prepare=replace(config.prepare, source=source))
    context: Any = SimpleNamespace(
        folder=folder, places=Places(None, folder), on_progress=lambda _: None, launch=Launch()
    )
    return preparation.run(config, Inputs({}, {}), context)


def test_its_rows_are_prepared_split_checked_and_counted(part: Part, file: Path, tmp_path: Path) -> None:
    result = prepared(Files.of([], {"pairs": file}), tmp_path / "out", "prepare.rows_split=0.6,0.2,0.2")
    facts = result.part("pairs")
    assert list(result.parts) == ["pairs"]
    assert facts.labels == ("n", "y")
    assert sum(facts.rows.values()) + facts.leaks == N_PAIRS
    assert result.metrics["data/pairs_train_rows"] == facts.rows["train"] > N_PAIRS / 3
    ledger = Ledger.load(tmp_path / "out/ledger.json")
    assert ledger.total("in", stage="pairs: clean") == N_PAIRS + N_NEAR + N_EQUAL
    assert ledger.total("dropped", stage="pairs: clean", reason="near duplicate") == N_NEAR
    assert ledger.total("dropped", stage="pairs: clean", reason="duplicate") == N_EQUAL
    for split in preparation.SPLITS:
        rows = read_json_lines(tmp_path / f"out/pairs/{split}.jsonl")
        assert [list(row) for row in rows] == [list(part.keys)] * facts.rows[split]
        assert ledger.total("kept", stage="pairs: split", split=split) >= len(rows) > 3


def test_a_row_without_a_key_of_it_is_refused_with_its_place(part: Part, file: Path, tmp_path: Path) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps({"first": "a", "label": "n"}) + "\n")
    with pytest.raises(
        DataError, match=r"pairs\.jsonl, line 66: the key 'second' is missing; the keys found are 'first'"
    ):
        prepared(Files.of([], {"pairs": file}), tmp_path / "out")


@dataclass(frozen=True)
class Generated(SourceConfig):
    """A source without files, whose third row lacks a key."""

    @property
    def parts(self) -> tuple[str, ...]:
        return ("pairs",)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document] | None:
        del places, ledger
        return None

    def rows(self, part: Part, places: Places) -> Iterator[Row] | None:
        del part, places
        return iter([{"first": "a", "second": "b", "label": "n"}] * 2 + [{"first": "a", "second": "b"}])


def test_a_source_that_breaks_the_keys_of_it_is_refused_with_the_row(part: Part, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Generated, row 3 of pairs: expected a text under 'label', got the keys 'first'"
    ):
        prepared(Generated(), tmp_path / "out")


def test_a_source_of_a_part_that_is_not_registered_is_refused_by_name(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown part of the data 'pairs' \(known: classify, instruct\)"):
        prepared(Generated(), tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown part of the data 'pairs'"):
        Files(more=(("pairs", file),))


def test_a_configuration_with_it_survives_json_and_one_without_has_its_old_form(part: Part, file: Path) -> None:
    config = configuration("tiny", [], OwnData(rows={"pairs": file}))
    assert config.prepare.source == Files(more=(("pairs", file),))
    assert Pipeline.from_dict(config.to_dict()) == config
    assert config.prepare.source.estimate(Places(None, file.parent)).rows == {"pairs": N_PAIRS + N_NEAR + N_EQUAL}
    assert "more" not in Files(labelled_rows=file).to_dict()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"more": [["classify", "a.csv"]]}, "Files.more gives rows of 'classify'; expected each further part once"),
        ({"more": [["pairs", "a.csv"], ["pairs", "b.csv"]]}, "Files.more gives rows of 'pairs'"),
    ],
)
def test_rows_that_are_given_twice_are_refused(part: Part, source: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Files.from_dict(source)


def test_a_request_gives_known_parts_by_their_own_fields(part: Part, file: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.rows gives 'classify'; expected its file as data\.labelled"):
        configuration("tiny", [], OwnData(rows={"classify": file}))
    with pytest.raises(ConfigError, match=r"unknown part of the data 'pears'; did you mean 'pairs'\?"):
        configuration("tiny", [], OwnData(rows={"pears": file}))


def test_a_dry_run_takes_its_option_and_says_that_no_stage_reads_it(
    run_command: RunCommand, part: Part, file: Path
) -> None:
    text = run_command("pipeline", "--preset", "tiny", "--dry-run", "--pairs-of-texts", str(file))
    assert f"about 0.0 M characters; {UNREAD}" in text
    assert "finetune-classifier left out: the data has no labelled rows (--labelled)" in text
    for command in (("prepare-data",), ("sweep",)):
        assert "--pairs-of-texts" in (shown := run_command(*command, "--help"))
        assert "Own pairs of texts: jsonl, json, csv, tsv or parquet with first, second and label." in shown
        assert shown.index("--corpus") < shown.index("--pairs-of-texts")


def test_its_option_is_gone_with_it(run_command: RunCommand, file: Path) -> None:
    assert "No such option: --pairs-of-texts" in run_command("pipeline", "--pairs-of-texts", str(file), code=2)


def test_an_option_that_a_command_has_already_is_refused(run_command: RunCommand) -> None:
    with use_part(replace(PAIRS, option="--seed")):
        text = run_command("pipeline", "--help", code=2)
    assert "ConfigError: the part 'pairs' has the option --seed, which is taken; choose another" in text


def test_a_stage_that_wants_it_is_left_out_with_the_sentence_that_gives_it(part: Part, home: Path, file: Path) -> None:
    stage = replace(STAGES["finetune-classifier"], name="compare-pairs", parts=("pairs",))
    without = Chain(resolve("tiny"), read_settings(), None, progress_bar)
    assert without.absence(stage) == "the data has no pairs of texts (--pairs-of-texts)"
    given = Chain(configuration("tiny", [], OwnData(rows={"pairs": file})), read_settings(), None, progress_bar)
    assert given.absence(stage) is None
    nothing = PrepareResult(tokenizer="t", tokenizer_digest="", vocab_size=1, tokens={}, parts={}, metrics={})
    with pytest.raises(
        ConfigError, match=r"no rows for pairs \(it has a corpus alone\); give some by --pairs-of-texts"
    ):
        nothing.part("pairs")
    assert describe_unread(["classify", "pairs"]) == [UNREAD]
    with use_stage(stage):
        assert describe_unread(["classify", "pairs"]) == []


def test_the_page_shows_its_rows_and_that_no_stage_reads_them(part: Part, file: Path, tmp_path: Path) -> None:
    result = prepared(Files.of([], {"pairs": file}), tmp_path / "out")
    made = Outcome("prepare-data", "k", tmp_path / "out", result, 1.0, cached=False, run_id=None)
    when = datetime(2025, 3, 1, tzinfo=UTC)
    lacks = {"finetune-classifier": describe_lack(["classify"])}
    report = PipelineReport("tiny", "k", when, 1.0, resolve("tiny").to_dict(), {}, (made,), {}, lacks)
    page = write_report(report, tmp_path / "report.html").read_text()
    assert re.search(rf'pairs of texts</td><td class="n">{result.part("pairs").rows["train"]}</td>', page)
    assert f"Unused: {UNREAD}." in page
    assert "the data has no labelled rows" in page


def test_it_is_added_by_its_columns_or_its_kind_and_grows_a_chain(
    run_command: RunCommand, part: Part, home: Path, file: Path, tmp_path: Path
) -> None:
    assert "Kind of data: corpus, labelled, instructions or pairs-of-texts;" in run_command("data", "add", "--help")
    assert "unknown kind of data 'pairs-of'; did you mean" in run_command(
        "data", "add", str(file), "--kind", "pairs-of", code=2
    )
    n = N_PAIRS + N_NEAR + N_EQUAL
    assert f"pairs-of-texts {n} items" in run_command("data", "add", str(file))
    folder = DataFolder(home / "data")
    grown = with_added_data(resolve("tiny"), folder, snapshot=folder.freeze()).prepare.source
    places = Places(None, tmp_path, folder.root)
    assert grown.parts == ("classify", "instruct", "pairs")
    assert grown.estimate(places).rows["pairs"] == n == len(list(grown.rows(part, places) or ()))


def test_added_rows_of_a_part_that_is_gone_are_refused_and_not_left_out() -> None:
    with pytest.raises(ConfigError, match="unknown kind of data 'pairs-of-texts'"):
        Grown(snapshot="0" * 16, kinds=("pairs-of-texts",))


def test_rows_that_fit_two_parts_are_asked_about(part: Part, file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "both.csv"
    rows.write_text("first,second,label,left,right,same\na,b,c,d,e,f\n")
    columns = ("left", "right", "same")
    other = Part("twins", "--twins", "twins", keys=columns, identity=columns[:2], content=columns[:2])
    with (
        use_part(other),
        pytest.raises(DataError, match="first row fits pairs-of-texts and twins; say which it is by"),
    ):
        DataFolder(tmp_path / "data").add([rows])


def test_the_gate_holds_its_rows_out_less_what_the_champion_knows(part: Part, file: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    prepared(Files.of([], {"pairs": file}), ours)
    held_out = read_json_lines(ours / "pairs/test.jsonl")
    theirs = tmp_path / "theirs"
    shutil.copytree(ours, theirs)
    (theirs / "pairs/train.jsonl").write_text(json.dumps(held_out[0]) + "\n")
    items = evaluation_set(ours, champion=theirs, max_items=50)
    assert len(items.rows("pairs")) == len(held_out) - 1
    assert items.left_out["pairs"] == 1
    items.save(tmp_path)
    assert [set(row) for row in read_json_lines(tmp_path / "pairs.jsonl")] == [{"id", *part.keys}] * len(
        items.rows("pairs")
    )


def test_its_name_and_its_option_are_its_own() -> None:
    with use_part(PAIRS):
        for twin in (PAIRS, replace(PAIRS, name="twins"), replace(PAIRS, option="--twins")):
            with pytest.raises(ConfigError, match="two parts of the data have the name"):
                register_part(twin)
    assert [part.name for part in list_parts()] == ["classify", "instruct"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "corpus"}, "a part is named 'corpus'; expected small letters"),
        ({"name": "tokens"}, "and none of: corpus, metrics"),
        ({"option": "pairs"}, "has the option 'pairs'; expected one as --labelled"),
        ({"option": "--corpus"}, "expected one as --labelled, not --corpus"),
        ({"identity": ()}, "needs keys, identity and content"),
        ({"optional": ("first", "second")}, "and in its identity a key that no row lacks"),
        ({"content": ("frist",)}, "the part 'pairs' has no key 'frist'; did you mean 'first'?"),
    ],
)
def test_a_part_that_cannot_be_is_refused_where_it_is_made(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(PAIRS, **wrong)


def test_an_installed_package_brings_a_part_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "outside_part.py").write_text(
        "from flows.sources.parts import Part, register_part\n"
        "register_part(Part('tags', '--tags', 'tagged words', ('words', 'tags'), ('words',), ('words',)))\n"
    )
    (info := tmp_path / "outside-1.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gptworks.components]\noutside = outside_part\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from flows.cli.entry import main; main(['lora', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "GPTWORKS_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "Own tagged words:" in done.stdout
