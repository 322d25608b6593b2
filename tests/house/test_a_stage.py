"""A stage that lives outside the tree goes where those of the tree go, by its entry point and its folder alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flows.chain.engine import Chain
from flows.progress import progress_bar
from flows.recipes.resolve import resolve
from flows.settings import read_settings
from flows.stages.every import STAGES
from flows.stages.registry import Stage, register, use_stage
from flows.tracking.store import connect
from gptcore.errors import ConfigError

OUTSIDE = Path(__file__).with_name("outside")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Own instructions, so that little has to be prepared."""
    path = tmp_path_factory.mktemp("rows") / "instructions.jsonl"
    asked = [{"instruction": f"Add {i} and {3 * i}.", "output": f"The sum is {4 * i}."} for i in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    return path


@pytest.fixture
def gptworks(home: Path) -> Run:
    """A command in a process that has the stage's package installed."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"GPTWORKS_HOME": str(home), "OLLAMA_HOST": "127.0.0.1:9", "COLUMNS": "200", "PYTHONPATH": paths}
        return subprocess.run(
            [sys.executable, "-m", "flows", *arguments],
            env={**os.environ, **own, **variables},
            capture_output=True,
            text=True,
        )

    return run


def test_it_is_a_command_with_its_help_and_examples(gptworks: Run) -> None:
    assert "count-letters" in gptworks("--help").stdout
    text = gptworks("count-letters", "--help").stdout
    assert "Count a letter in the held-out answers. Builds what it needs first." in text
    assert "gptworks count-letters --preset tiny --set letters.letter=a" in text
    assert "--nproc" not in text  # it trains nothing


def test_its_settings_are_set_planned_and_refused_like_any(gptworks: Run, rows: Path) -> None:
    planned = gptworks("count-letters", "--preset", "tiny", "--instructions", str(rows), "--dry-run").stdout
    assert "count-letters" in planned
    assert "answers to read" in planned
    refused = gptworks("count-letters", "--preset", "tiny", "--set", "letters.letter=ab", "--dry-run")
    assert "letters.letter is 'ab'; expected one letter" in refused.stderr


@pytest.mark.flows
@pytest.mark.parametrize("is_killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_is_made_resumed_tracked_and_shown(gptworks: Run, rows: Path, home: Path, is_killed: bool) -> None:
    """One run of the whole chain; slower, one that is killed in the stage's body and taken up again."""
    chain = ("pipeline", "--preset", "tiny", "--instructions", str(rows), "--set", "compress.methods=int8")
    if is_killed:
        killed = gptworks(*chain, "--set", "letters.letter=o", HOUSE_LETTERS_KILL="1")
        assert killed.returncode == -signal.SIGKILL
        (work,) = home.glob("store/count-letters/*.work")
        assert (work / "0.txt").exists()
    done = gptworks(*chain, "--set", "letters.letter=o")
    assert done.returncode == 0, done.stderr
    assert "count of o" in done.stdout
    (manifest,) = home.glob("store/count-letters/*/manifest.json")
    made = json.loads(manifest.read_text())
    assert made["config"]["letters"] == {"kind": "LettersStage", "letter": "o"}
    assert made["result"]["letter"] == "o"

    page = next(home.glob("reports/*/report.html")).read_text()
    assert '<a href="#letters">Letters</a>' in page
    assert "The letter <b>o</b> stands" in page
    client = connect(read_settings({"GPTWORKS_HOME": str(home)}))
    experiment = client.get_experiment_by_name("gptworks/count-letters")
    assert experiment is not None
    assert experiment.tags["mlflow.note.content"] == "How often a letter stands in the answers of a model."
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["letters.letter"]) == ("FINISHED", "o")
    assert "letters/count" in run.data.metrics


def a_stage(**changes: object) -> Stage:
    return replace(STAGES["lora"], **{"name": "another", "room": __name__, **changes})  # type: ignore[arg-type]


def test_equal_names_and_missing_needs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two stages are named 'lora': flows\.stages\.lora and "):
        register(a_stage(name="lora"))
    with pytest.raises(ConfigError, match="the stage 'another' needs nothing-such, which is not registered"):
        register(a_stage(needs=("pretrain", "nothing-such")))
    assert "another" not in STAGES


def test_a_stage_that_asks_for_what_the_model_cannot_do_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    settings = read_settings({"GPTWORKS_HOME": str(tmp_path)})
    with use_stage(a_stage(abilities=("pixels",), parts=())) as stage:
        chain = Chain(resolve("tiny"), settings, None, progress_bar)
        assert chain.left_out.keys() == {"another"}
        assert "another" in (chain.absence(stage) or "")
        assert "read images" in (chain.absence(stage) or "")


@pytest.mark.parametrize("first", ["from gptcore.models import families; families()", "import house_letters.stage", ""])
def test_it_stands_behind_those_of_the_tree_whatever_is_imported_first(first: str) -> None:
    """The kind: a component is loaded by whoever meets an unknown name first, a family's reader for example."""
    code = f"{first}\nfrom flows.stages.every import STAGES\nprint(*STAGES)"
    paths = os.pathsep.join([str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.stdout.split() == [*STAGES, "count-letters"], done.stderr


def test_a_component_that_cannot_be_loaded_is_an_error_like_any(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gptworks.components]\nbroken = nothing_such\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "flows", "runs"], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == ConfigError.exit_code
    assert "Traceback" not in done.stderr
    assert "the component 'broken' (nothing_such) of broken could not be loaded" in " ".join(done.stderr.split())


def test_a_stage_for_a_block_is_gone_after_it_also_when_the_block_fails() -> None:
    """The kind: one failing test would leave its stage to all that come after it in the process."""
    with pytest.raises(ConfigError, match="two stages are named 'another'"), use_stage(a_stage()):
        register(a_stage())  # refused because the block's stage is there
    assert "another" not in STAGES
