"""What a stage sends to Prefect and reads from it."""

from __future__ import annotations

import pytest

from flows.orchestrator.flow_run import prefect_tags

RUN = "PREFECT__RUNTIME__FLOW_RUN__"


def test_outside_a_flow_there_is_nothing_to_tell() -> None:
    assert prefect_tags() == {}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:4200/runs/flow-run/7", "http://127.0.0.1:4200/runs/flow-run/7"),
        ("None/runs/flow-run/7", None),
    ],
)
def test_a_flow_run_is_named_and_linked_where_it_has_a_page(
    monkeypatch: pytest.MonkeyPatch, url: str, told: str | None
) -> None:
    for name, value in (("ID", "7"), ("NAME", "quick-fox"), ("UI_URL", url), ("RUN_COUNT", "2")):
        monkeypatch.setenv(f"{RUN}{name}", value)
    tags = prefect_tags()
    assert (tags["prefect.flow_run_id"], tags["prefect.flow_run_name"]) == ("7", "quick-fox")
    assert tags["prefect.attempt"] == "2"
    assert tags.get("prefect.flow_run_url") == told
