"""The report page: what stands on it, what is left out, and that nothing on it can run or is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows.figures.svg import MAX_POINTS, confusion_svg, loss_svg
from flows.report.page import summary_rows, write_report
from flows.stages.classify.result import ClassifyResult
from flows.stages.compress.result import CompressResult
from flows.stages.lora.result import LoraResult
from flows.stages.outcome import PipelineReport
from gptcore.errors import DataError
from gptcore.files import read_json_lines

MakeReport = Callable[..., PipelineReport]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Outline(HTMLParser):
    """Tags, ids and visible text of a page; open tags that were never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(report: PipelineReport, folder: Path) -> tuple[str, Outline]:
    page = write_report(report, folder / "report.html").read_text(encoding="utf-8")
    return page, parsed(page)


def parsed(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    return outline


@pytest.fixture(scope="module")
def page(make_report: MakeReport, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run, without a judge."""
    return written(make_report(), tmp_path_factory.mktemp("page"))[0]


def part(page: str, name: str) -> str:
    """The visible text of one part of the page."""
    outline = Outline()
    found = re.search(rf'<section class="part" id="{name}">(.*?)(?=<section class="part"|</main>)', page, re.DOTALL)
    assert found, f"no part {name}"
    outline.feed(found[1].rsplit("</section>", 1)[0])
    return outline.text


def test_every_stage_has_one_headline_figure(make_report: MakeReport) -> None:
    rows = {row.stage: (row.metric_name, row.metric_value) for row in summary_rows(make_report())}
    assert rows == {
        "prepare-data": ("tokens", "1,384,568"),
        "pretrain": ("val/bits_per_byte", 1.431),
        "finetune-classifier": ("test/accuracy", 0.853),
        "finetune-instruct": ("test/rouge_l", 0.412),
        "lora": ("classify/test/accuracy", 0.841),
        "compress": ("int8 size, perplexity", "30%, +0.12%"),
        "evaluate": ("test/rouge_l; judge", "0.412; judge: skipped, no Ollama at http://127.0.0.1:11434"),
    }


def test_headlines_fall_back_where_a_figure_is_missing(make_report: MakeReport) -> None:
    report = make_report(without=("evaluate", "finetune-classifier"))
    lora = report.stage("lora")
    assert lora is not None
    bare = replace(lora, result=LoraResult(tasks={}, metrics={"instruct/val/loss": 1.31}))
    stages = tuple(bare if stage is lora else stage for stage in report.stages)
    rows = {row.stage: row for row in summary_rows(replace(report, stages=stages))}
    assert rows["finetune-instruct"][1:3] == ("val/loss", 1.24)
    assert rows["lora"][1:3] == ("instruct/val/loss", 1.31)
    assert rows["pretrain"].cached
    assert not rows["lora"].cached


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"state": "off", "reason": "switched off by --judge off"}, "judge: off"),
        ({"state": "scored", "reason": "", "mean": 61.25, "unscored": 1.0}, "judge: 61.2 of 100"),
        (
            {"state": "scored", "reason": "", "mean": 61.25, "ci_low": 57.0, "ci_high": 65.12},
            "judge: 61.2 of 100 (57.0 to 65.1)",
        ),
        (
            {"state": "judge not validated", "reason": "auc 0.5, must be >= 0.95: why; empty_mean 40", "mean": 61.25},
            "judge not validated: auc 0.5, must be >= 0.95: why; 61.2 of 100",
        ),
        (
            {"state": "scored", "reason": "", "mean": None, "unscored": 30.0},
            "judge: nothing scored, 30 unscored",
        ),
    ],
)
def test_the_headline_tells_what_came_of_the_judge(make_report: MakeReport, judge: dict[str, Any], words: str) -> None:
    assert summary_rows(make_report(judge=judge))[-1].metric_value == f"0.412; {words}"


def test_the_page_has_its_parts_in_order(page: str) -> None:
    outline = parsed(page)
    parts = [attributes["id"] for tag, attributes in outline.tags if attributes.get("class") == "part"]
    assert parts == [
        "summary",
        "data",
        "loss",
        "samples",
        "classification",
        "responses",
        "lora",
        "compression",
        "evaluation",
        "ledger",
        "configuration",
        "environment",
    ]
    targets = [a["href"] for tag, a in outline.tags if tag == "a" and (a.get("href") or "").startswith("#")]
    assert targets == [f"#{name}" for name in parts[1:]]


def test_nothing_runs_and_nothing_is_loaded_from_outside(page: str) -> None:
    outline = parsed(page)
    tags = {tag for tag, _ in outline.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image", "foreignobject"}
    for tag, attributes in outline.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            assert name != "src"
            if name.endswith("href") and tag != "a":
                assert (value or "").startswith("#"), f"{tag} refers to {value}"
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_what_a_model_or_a_label_says_is_text(page: str) -> None:
    outline = parsed(page)
    assert "<script" not in page
    assert "<b>bold</b>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "<script>alert('x')</script> & <b>bold</b>" in outline.text
    assert "$x$ <i>" in outline.text


def test_an_address_that_is_no_web_address_is_no_link(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(only=("prepare-data",))
    odd = tuple(replace(stage, run_url="javascript:alert(1)") for stage in report.stages)
    page, outline = written(replace(report, stages=odd), tmp_path)
    assert "javascript:" not in page
    assert "0b6c7d8e" in outline.text
    page, outline = written(report, tmp_path)
    assert "http://127.0.0.1:5000/#/runs/0b6c7d8e9f0a1b2c" in {a.get("href") for _, a in outline.tags}


def test_a_lone_surrogate_does_not_cost_the_page(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(only=("finetune-instruct",))
    instruct = report.stage("finetune-instruct")
    assert instruct is not None
    row = '{"instruction": "a", "input": "", "output": "b", "base": "c", "response": "half \\ud83d emoji"}\n'
    (instruct.path / "responses.jsonl").write_text(row, encoding="utf-8")
    assert "half ? emoji" in written(report, tmp_path)[1].text


def test_the_licence_is_told_for_catalogued_bytes_alone(page: str) -> None:
    data = part(page, "data")
    assert re.search(r"sms-spam 7d039a24\w+ CC BY 4\.0", data)
    assert f"the-verdict {'0' * 64} –" in data  # the catalogue's name with other bytes
    assert "numpy 2.3.1 –" in data
    assert "1,234,567 tokens, train" in data
    assert "labelled rows 7,680 960 960 3 matplotlib, numpy" in data


def test_loss_curves_of_every_training_are_drawn(page: str) -> None:
    outline = parsed(page)
    ids = [attributes["id"] for _, attributes in outline.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert sum(tag == "svg" for tag, _ in outline.tags) == 7  # five curves, the confusion matrix, compression
    loss = part(page, "loss")
    titles = ("Pretraining", "Classification", "Instructions", "LoRA, classification", "LoRA, instructions")
    assert all(f"{title} held out at the end:" in loss for title in titles)
    assert loss.count(f"At most {MAX_POINTS} points are drawn.") == 1  # only the pretraining is longer


def test_figures_take_their_colours_from_the_page() -> None:
    history = [{"step": step, "train/loss": 5.0 / step} for step in range(1, 1000)] + [{"step": 999, "val/loss": 1.0}]
    svg = loss_svg(history, name="one")
    assert svg is not None
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert {"currentColor", "var(--series-1)", "var(--series-2)", "var(--grid)"} <= set(
        re.findall(r"currentColor|var\([a-z0-9-]+\)", svg)
    )
    assert len(svg) < 40_000
    assert svg == loss_svg(history, name="one")
    assert loss_svg([{"step": 1, "train/skipped_steps": 0.0}], name="none") is None
    confusion = confusion_svg([[9, 1], [2, 8]], ["日本語", "a" * 60], name="two")
    assert confusion is not None
    assert "日本語" in confusion
    assert "a" * 17 + "…" in confusion


def test_classification_stands_beside_its_baseline(page: str) -> None:
    text = part(page, "classification")
    assert "85.3% test accuracy" in text
    assert "86.1% baseline: TF-IDF and logistic regression" in text
    assert "84.7% macro-F1" in text
    assert "Confusion matrix" in text


def test_too_many_classes_give_the_mistakes_instead_of_a_matrix(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(only=("finetune-classifier",))
    stage = report.stage("finetune-classifier")
    assert stage is not None
    labels = [f"class {i}" for i in range(40)]
    confusion = [[7 if i == j else int(j == i + 1) * (i + 1) for j in range(40)] for i in range(40)]
    assert isinstance(stage.result, ClassifyResult)
    result = replace(stage.result, labels=tuple(labels), confusion=tuple(map(tuple, confusion)))
    many = replace(stage, result=result)
    changed = replace(report, stages=tuple(many if one is stage else one for one in report.stages))
    text = part(written(changed, tmp_path)[0], "classification")
    assert "40 classes are too many for a readable matrix" in text
    assert "class 38 class 39 39 84.8%" in text


def test_samples_show_the_first_and_the_last_moment(page: str) -> None:
    text = part(page, "samples")
    assert text.count("5 of 8 moments.") == 2
    assert "100 function numpy. the array of the <array> at 100 is returned." in text
    assert "800 Return the the array of the <array> at 800" in text


def test_the_best_and_the_worst_responses_are_shown(page: str) -> None:
    text = part(page, "responses")
    assert "30 held-out prompts were answered" in text
    shown = [int(n) for n in re.findall(r"Explain what `numpy\.function_(\d+)`", text)]
    assert shown == [0, 1, 2, 3, 4, 5, 24, 25, 26, 27, 28, 29]
    assert text.index("Best by ROUGE-L (6)") < text.index("Worst by ROUGE-L (6)")
    assert "ROUGE-L 0.97 exact match" in text
    assert "Before (base model) (empty)" in text
    assert "unscored" not in text


def test_a_judged_response_shows_score_or_reason(make_report: MakeReport, tmp_path: Path) -> None:
    judge = {"state": "scored", "reason": "", "mean": 61.25}
    page, _ = written(make_report(judge=judge, only=("finetune-instruct", "evaluate")), tmp_path)
    responses = part(page, "responses")
    assert "judge 90 of 100" in responses
    assert "unscored: timeout" in responses
    assert "Judge: Names the axis, misses the shape." in responses


def test_responses_without_scores_are_the_first_ones(make_report: MakeReport, tmp_path: Path) -> None:
    text = part(written(make_report(only=("finetune-instruct",)), tmp_path)[0], "responses")
    shown = [int(n) for n in re.findall(r"Explain what `numpy\.function_(\d+)`", text)]
    assert shown == list(range(12))
    assert "ROUGE-L" not in text
    few = part(written(make_report(n_responses=4, only=("finetune-instruct", "evaluate")), tmp_path)[0], "responses")
    assert "By ROUGE-L, best first (4)" in few


def test_compression_evaluation_and_lora_are_tables(page: str) -> None:
    compression = part(page, "compression")
    assert "int8 1.02 MB 30.0% 30.34 +0.12% +0.50% 0.0012 99.8% 98.0% 812 9,120 passed" in compression
    assert "int4 680.0 kB 20.0% 34.27 +13.10% +12.00% 0.131 86.9% 97.0% 812 9,120 failed" in compression
    assert "The model of finetune-instruct on the answers to the held-out instructions; KL is" in compression
    assert compression.endswith("Accuracy: the classifier, compressed in the same way, on its test rows.")
    evaluation = part(page, "evaluation")
    assert "base 0.061 0.6% 6.1 0.0%" in evaluation
    assert "Judge: skipped no Ollama at http://127.0.0.1:11434 (refused); start it: ollama serve" in evaluation
    lora = part(page, "lora")
    assert "classify accuracy 84.1% 85.3% -1.2 points" in lora
    assert "instruct held-out loss 1.31 1.24 +0.070" in lora
    assert "instruct ROUGE-L 0.397 0.412 -0.015" in lora
    assert "classify 4.21% 84.0 kB 3.40 MB" in lora


def test_the_size_of_the_model_stands_beside_its_data(page: str) -> None:
    assert "1,234,500 parameters: 4 layers, 2 heads, width 96, context 160" in part(page, "data")


def test_large_figures_are_written_out(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(only=("compress",))
    (stage,) = report.stages
    assert isinstance(stage.result, CompressResult)
    fast = tuple(replace(variant, tokens_per_second=26_268.5) for variant in stage.result.variants)
    quick = replace(report, stages=(replace(stage, result=replace(stage.result, variants=fast)),))
    assert "26,268 9,120 passed" in part(written(quick, tmp_path)[0], "compression")


def test_the_ledger_tells_counts_and_reasons(page: str) -> None:
    text = part(page, "ledger")
    assert "corpus: clean all documents 27,412 24,019 3,393 – – near duplicate 2,891, too short 502" in text
    assert "finetune-instruct encode train rows 5,002 5,000 2 40 – fully masked 2, longer than the context 40" in text


def test_configuration_and_environment_are_complete(page: str) -> None:
    configuration = part(page, "configuration")
    assert "pretrain.train.optimizer.lr 0.001" in configuration
    assert "evaluate.judge_model llama3" in configuration
    assert "torch 2.13.0" in part(page, "environment")


def test_stages_that_the_data_has_nothing_for_are_told(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(without=("finetune-classifier", "finetune-instruct", "lora", "compress", "evaluate"))
    rows, asked = "labelled rows (--labelled)", "instruction rows (--instructions)"
    lacks = {"finetune-classifier": rows, "finetune-instruct": asked, "lora": f"{rows} and no {asked}"}
    corpus_only = replace(report, left_out={name: f"the data has no {lack}" for name, lack in lacks.items()})
    page, _ = written(corpus_only, tmp_path)
    assert "finetune-classifier (the data has no labelled rows (--labelled))" in part(page, "summary")
    assert part(page, "classification").endswith("Left out: the data has no labelled rows (--labelled).")
    assert part(page, "responses").endswith("Left out: the data has no instruction rows (--instructions).")
    assert part(page, "lora").endswith(
        "Left out: the data has no labelled rows (--labelled) and no instruction rows (--instructions)."
    )
    assert part(page, "compression").endswith("Left out: it was not part of this run.")


def test_a_run_without_any_stage_still_gives_a_page(make_report: MakeReport, tmp_path: Path) -> None:
    page, _ = written(replace(make_report(), stages=()), tmp_path)
    assert part(page, "ledger").endswith("No stage of this run kept a ledger.")
    assert part(page, "loss").endswith("No stage of this run kept a history of its loss.")
    assert part(page, "samples").endswith("Left out: it was not part of this run.")


def test_a_broken_line_is_named_and_the_old_page_stays(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(only=("finetune-instruct", "evaluate"))
    before, _ = written(report, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    evaluate = report.stage("evaluate")
    assert evaluate is not None
    scores = evaluate.path / "scores.jsonl"
    lines = scores.read_text(encoding="utf-8").split("\n")
    scores.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.jsonl, line 2 is not JSON .*; make the stage again with --force"):
        write_report(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    scores.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.jsonl, line 1 is no JSON object"):
        read_json_lines(scores)
