"""`hexsolve study gap`: how far from optimal? Knows options and files; the study does the work."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hexsolve.cli.output import json_bytes, say
from hexsolve.cli.parse import parse_names, parse_scales
from hexsolve.cli.study_parts import study_pool, study_progress
from hexsolve.errors import InputError

if TYPE_CHECKING:
    from hexsolve.study.gap_bracket import Effort
    from hexsolve.study.gap_run import Instance
    from hexsolve.study.slo_cell import Cell
    from hexsolve.study.slo_config import Grid

_POLICIES = "workflow-fcfs,workflow-llf,srpt,hexagent,solver"


@click.command("gap")
@click.option("--workload", "sources", multiple=True, required=True, metavar="NAME|FILE[,...]", help="Or your trace.")
@click.option("--cluster", "clusters", multiple=True, required=True, metavar="NAME|FILE[,...]", help="Repeatable.")
@click.option("--policies", "--policy", multiple=True, default=(_POLICIES,), show_default=True, metavar="P[,P...]")
@click.option("--loads", metavar="RHO[,RHO...]", help="Utilisations (default: a file's own times, else 1.0).")
@click.option("--burst", is_flag=True, help="All workflows at once, too.")
@click.option("--workflows", type=int, metavar="N", help="How many (a name: 100, a file: all it has).")
@click.option("--seeds", default=1, show_default=True, metavar="K", help="Seeds S to S+K-1.")
@click.option("--first-seed", default=1000, show_default=True, metavar="S")
@click.option("--budget-s", default=60.0, show_default=True, metavar="S", help="Bounds and search, per instance.")
@click.option("--budget-ms", default=5.0, show_default=True, help="Planning budget of the solver policy.")
@click.option("--predictor", default="oracle", show_default=True, metavar="SPEC", help="What policies know of lengths.")
@click.option("--epochs-ms", type=float, metavar="MS", help="Gaps of single epochs too, at this planning budget.")
@click.option("--jobs", type=int, metavar="N", help="Processes on this machine (default: its cores).")
@click.option("--ray", "address", metavar="ADDRESS", help='A Ray cluster instead; "local" starts one here.')
@click.option("--out", metavar="DIR", default="gap", show_default=True, help="Folder; what is there is used.")
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
@click.option("--retry-failed", is_flag=True, help="Run again what failed before.")
@click.option("--dry-run", is_flag=True, help="Say how much there is to do, and stop.")
@click.option("--quiet", is_flag=True, help="No progress and no words on standard error.")
def gap_command(
    sources: tuple[str, ...],
    clusters: tuple[str, ...],
    policies: tuple[str, ...],
    loads: str | None,
    burst: bool,
    workflows: int | None,
    seeds: int,
    first_seed: int,
    budget_s: float,
    budget_ms: float,
    predictor: str,
    epochs_ms: float | None,
    jobs: int | None,
    address: str | None,
    out: str,
    no_plots: bool,
    retry_failed: bool,
    dry_run: bool,
    quiet: bool,
) -> int:
    """How far from optimal is each policy: a certified bound, the best schedule known, and what lies between.

    For every workload, cluster, load and seed: a lower bound that no scheduler can beat, with the resource that makes
    it so; the best simulated schedule, found by a search that knows the whole workload; every policy's distance to
    both. The answer in words goes to standard output. In DIR: gap.md, gap.json (hexsolve.study.gap.v1), rows.csv,
    plots/*.png. A study that was killed goes on where it was. Exit code 1 if anything failed.
    """
    from hexsolve.study.gap_bracket import Effort
    from hexsolve.study.gap_run import FOLDERS, run_gaps
    from hexsolve.study.slo_store import Store

    if not 0 < budget_s < float("inf"):
        raise InputError(f"budget-s = {budget_s:g}: expected a finite number > 0")
    if epochs_ms is not None and not 0 < epochs_ms < float("inf"):
        raise InputError(f"epochs-ms = {epochs_ms:g}: expected a finite number > 0")
    grids = _grids(parse_names(sources), parse_names(clusters), workflows, loads, burst=burst)
    cells = _cells(grids, parse_names(policies), first_seed, seeds, budget_ms, predictor)
    instances = len({(cell.seed, *cell.place.identity) for cell in cells})
    if dry_run:
        about = f"about {instances * budget_s / 60:.0f} min of bounds and search"
        click.echo(f"{instances} instances, {len(cells)} runs of policies, {about} in {out}")
        return 0
    store, effort = Store(Path(out), FOLDERS), Effort(budget_s)
    with study_pool(jobs, address) as pool, study_progress(quiet=quiet) as report:
        found = run_gaps(cells, effort, store, pool, report, epochs_ms=epochs_ms, retry_failed=retry_failed)
    _write(Path(out), effort, found, plots=not no_plots)
    failed = sum(len(instance.errors) for instance in found)
    if failed:
        say(f"{failed} failures, see {Path(out) / 'gap.md'}", quiet=quiet)
    say(f"wrote {out}", quiet=quiet)
    return 1 if failed else 0


def _grids(
    sources: Sequence[str], clusters: list[str], workflows: int | None, loads: str | None, *, burst: bool
) -> "list[Grid]":
    """A grid for files that keep their own times of arrival, and one for everything that arrives at a load."""
    from hexsolve.generate import NAMES
    from hexsolve.study.slo_config import Grid

    if not sources or not clusters:
        raise InputError("study gap: expected at least one workload and one cluster, got none")
    if workflows is not None and workflows < 1:
        raise InputError(f"workflows = {workflows}: expected an integer >= 1")
    rho = [] if loads is None else list(parse_scales(loads, "loads"))
    recorded = [] if rho or burst else [name for name in sources if name not in NAMES and _records_arrivals(name)]
    others = [name for name in sources if name not in recorded]
    grid = partial(Grid, clusters=clusters, workflows=workflows)
    grids = [grid(workloads=recorded, recorded=True)] if recorded else []
    if others:
        grids.append(grid(workloads=others, rho=rho or ([] if burst else [1.0]), burst=burst))
    return grids


def _records_arrivals(source: str) -> bool:
    """Whether the file has more than one time of arrival; what is no file is somebody else's error."""
    from hexsolve.io import read_workload

    if not Path(source).is_file():
        return False
    return read_workload(source).workflows[-1].arrival_ms > 0.0


def _cells(
    grids: "list[Grid]", policies: list[str], first_seed: int, seeds: int, budget_ms: float, predictor: str
) -> "list[Cell]":
    """Everything that is wrong is said before anything runs; so each place is built once."""
    from hexsolve.study.slo_config import Study, expand

    for option, value, least in (("first-seed", first_seed, 0), ("seeds", seeds, 1)):
        if value < least:
            raise InputError(f"{option} = {value}: expected an integer >= {least}")
    study = Study(
        name="gap",
        grids=grids,
        policies=policies,
        first_seed=first_seed,
        num_seeds=seeds,
        predictor=predictor,
        engine={"budget_ms": budget_ms},
    )
    cells = expand(study, "study gap")
    for place in {cell.place.identity: cell.place for cell in cells}.values():
        place.build(first_seed)
    return cells


def _write(target: Path, effort: "Effort", found: "list[Instance]", *, plots: bool) -> None:
    """All results are made before any is written; the sentences go to standard output as well."""
    from hexsolve.atomic import write_atomically
    from hexsolve.study.gap_report import markdown, sentences
    from hexsolve.study.gap_results import by_place, document, flat_gaps
    from hexsolve.study.slo_results import csv_bytes

    places, records = by_place(found), flat_gaps(found)
    files = {"gap.md": markdown("gap", effort, found).encode(), "gap.json": json_bytes(document("gap", effort, found))}
    if records:
        files["rows.csv"] = csv_bytes(records)
    if plots:
        from hexsolve.plot_gap import gap_pictures

        files |= {f"plots/{name}": content for name, content in gap_pictures(found).items()}
        (target / "plots").mkdir(exist_ok=True)
    for name, content in files.items():
        write_atomically(target / name, (content,))
    for place in places:
        click.echo(f"{place.label}: {' '.join(sentences(place))}")
