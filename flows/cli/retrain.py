"""Commands about retraining: retrain, promote, rollback, lineage, data. Only options are here, for a quick --help."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from flows.cli.examples import DATA_EXAMPLES, epilog
from flows.cli.part_options import DataDirOption, WithParts
from flows.cli.stopping import stoppable
from flows.orchestrator.temporary_server import begin_server, leave_nothing
from flows.settings import read_settings

if TYPE_CHECKING:
    from flows.registry.lineage import Link
    from flows.stages.pipeline import Pipeline

data = typer.Typer(name="data", help="Add data for the next retraining.", no_args_is_help=True, add_completion=False)
"""``gptworks data ...``"""

PresetOption = Annotated[
    Literal["demo", "book", "tiny"], typer.Option("--preset", help="Preset whose chain is retrained.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change a setting of the chain; repeatable.")]
PolicyOption = Annotated[
    list[str] | None, typer.Option("--policy", help="Change a threshold, as in min_new_rows=50; repeatable.")
]
GateOption = Annotated[
    list[str] | None,
    typer.Option("--gate", help="Change a demand, as in primary=accuracy; repeatable; values are JSON."),
]
AloneOption = Annotated[bool, typer.Option("--added-alone", help="Leave out the preset's own data.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Train regardless of thresholds and earlier gates.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show whether it would train, why, and the estimated cost.")
]
ModelOption = Annotated[str, typer.Option("--model", help="Registered model.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Reason; kept with the version.")]


def retrain(
    preset: PresetOption = "demo",
    sets: SetOption = None,
    policy: PolicyOption = None,
    gate: GateOption = None,
    data_dir: DataDirOption = None,
    added_alone: AloneOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Retrain when the policy triggers, compare with the champion, and publish what is better."""
    settings = read_settings()
    with leave_nothing(settings):
        server_answers = begin_server(settings) if not dry_run else None
        from flows.chain.request import OwnData, configuration
        from flows.gate.policy import GatePolicy
        from flows.retrain import retrain as flow
        from flows.retrain import with_added
        from flows.retraining.policy import RetrainPolicy

        wanted, demands = _change_policy(RetrainPolicy, "--policy", policy), _change_policy(GatePolicy, "--gate", gate)
        own = OwnData(added_alone=True) if added_alone else None
        config = configuration(preset, sets or [], with_added(own))
    if server_answers is None:
        _print_plan(config, wanted, data_dir=data_dir, force=force)
        return
    logging.getLogger("prefect.flow_runs").propagate = False
    folder = None if data_dir is None else data_dir.absolute()
    with stoppable("retrain"):
        server_answers()
        ended: dict[str, Any] = flow(preset, sets, own, folder, force, None, wanted, demands)  # type: ignore[assignment]
    console = Console()
    console.print(f"{ended['model']}: [bold]{ended['outcome']}[/] ({ended['cause']})")
    console.print(ended["reason"], markup=False, soft_wrap=True)
    console.print(
        f"version {ended['version']}, champion {ended['champion']}, MLflow run {ended['run_id']}", soft_wrap=True
    )


def promote(
    version: Annotated[int, typer.Argument(help="Number of the version.")],
    reason: ReasonOption,
    model: ModelOption = "gptworks-demo",
) -> None:
    """Make a version the champion by hand, whatever its gate said."""
    from flows.registry.publish import promote as publish
    from flows.registry.versions import ModelRegistry

    found = publish(ModelRegistry(read_settings(), model), version, reason=reason)
    Console().print(f"{model}: version {found.number} is champion; to undo: gptworks rollback --model {model}")


def rollback(reason: ReasonOption, model: ModelOption = "gptworks-demo") -> None:
    """Roll back to the previous champion."""
    from flows.registry.publish import rollback as go_back
    from flows.registry.versions import ModelRegistry

    found = go_back(ModelRegistry(read_settings(), model), reason=reason)
    Console().print(f"{model}: version {found.number} is champion again")


def lineage(
    model: Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/NUMBER.")],
    offline: Annotated[bool, typer.Option(help="Read the store's manifests alone, without MLflow.")] = False,
) -> None:
    """Print what a version was made from, back to the source files."""
    from flows.registry.lineage import lineage as chain

    expanded: set[str] = set()

    def grow(tree: Tree, link: Link) -> None:
        if link.made_from and link.name in expanded:
            tree.add(f"{link.name} [dim](above)[/]")
            return
        expanded.add(link.name)
        branch = tree.add(_describe(link))
        for inner in link.made_from:
            grow(branch, inner)

    found = chain(read_settings(), model, offline=offline)
    root = Tree(_describe(found))
    for link in found.made_from:
        grow(root, link)
    Console().print(root, soft_wrap=True)


def _describe(link: Link) -> str:
    from rich.markup import escape

    facts = "".join(f"\n[dim]{escape(fact)}[/]" for fact in link.facts)
    return f"[bold]{escape(link.name)}[/]{facts}"


def add(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders with files.")],
    kind: str | None = None,
    link: Annotated[
        bool, typer.Option(help="Link instead of copying; the originals must not change afterwards.")
    ] = False,
) -> None:
    """Validate and add data for the next retraining, and notify a Prefect server."""
    from flows.sources.added import DataFolder
    from flows.sources.added_events import send_added

    console = Console()
    taken = DataFolder(read_settings().added_data).add(paths, kind=kind, link=link)
    for entry in taken.new:
        console.print(f"added {entry.sha256[:12]} {entry.kind} {entry.n_items:,} items {entry.origin}", soft_wrap=True)
    for path in taken.known:
        console.print(f"known {path}: its content was added before", soft_wrap=True)
    if taken.new:
        read_settings().prefect_home.mkdir(parents=True, exist_ok=True)
        console.print(send_added(taken), soft_wrap=True)


data.command("add", epilog=epilog("add", DATA_EXAMPLES))(WithParts(add))


@data.command("remove", epilog=epilog("remove", DATA_EXAMPLES))
def remove(sha256: Annotated[str, typer.Argument(help="Prefix of the file's sha256.")]) -> None:
    """Exclude a file from the next chain on."""
    from flows.sources.added import DataFolder

    gone = DataFolder(read_settings().added_data).remove(sha256)
    Console().print(f"{gone.origin} is removed; the next retraining does not use it", soft_wrap=True)


@data.command("list", epilog=epilog("list", DATA_EXAMPLES))
def list_added() -> None:
    """List the added data in use."""
    from flows.cli.models import table_console
    from flows.sources.added import DataFolder

    folder = DataFolder(read_settings().added_data)
    table = Table("sha256", "kind", "items", "characters", "added", "from")
    for entry in folder.entries():
        figures = (f"{entry.n_items:,}", f"{entry.n_chars:,}")
        table.add_row(entry.sha256[:12], entry.kind, *figures, entry.added, entry.origin)
    table_console().print(table)
    Console().print(f"state {folder.freeze() or 'empty'}")


def _print_plan(config: Pipeline, policy: Any, *, data_dir: Path | None, force: bool) -> None:
    from flows.chain.request import chain
    from flows.cli.models import print_plan
    from flows.registry.versions import ModelRegistry
    from flows.retrain import check, model_name

    stages = chain(config, data_dir=data_dir)
    _, reason = check(
        stages, ModelRegistry(stages.settings, model_name(config.preset)), policy, force=force, resumed=False
    )
    if reason.run:
        print_plan(config, "pipeline", data_dir=data_dir)
    Console().print(f"{'would train' if reason.run else 'would skip'} ({reason.cause}): {reason.text}", soft_wrap=True)


def _change_policy(model: Any, option: str, changes: list[str] | None) -> Any:
    """A policy with changes of the form name=value; a value is JSON, or else the text itself."""
    import json

    from pydantic import ValidationError

    from gptcore.errors import ConfigError

    values: dict[str, Any] = {}
    for change in changes or []:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{option}: expected name=value, got {change!r}")
        try:
            values[name.strip()] = json.loads(text)
        except ValueError:
            values[name.strip()] = text.strip()
    try:
        return model(**values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"{option}: {problems} (known: {', '.join(sorted(model.model_fields))})") from error
