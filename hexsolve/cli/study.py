"""`hexsolve study`: whole studies. Knows options, progress and files; the studies do the work."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hexsolve.cli.output import json_bytes, say
from hexsolve.cli.parse import parse_names
from hexsolve.cli.study_gap import gap_command
from hexsolve.cli.study_parts import study_pool, study_progress
from hexsolve.errors import InputError

if TYPE_CHECKING:
    from hexsolve.study.slo_cell import Cell, Row
    from hexsolve.study.slo_config import Study


@click.group("study")
def study_command() -> None:
    """Studies over many simulations."""


study_command.add_command(gap_command)


@study_command.command("slo")
@click.option("--config", metavar="FILE", help="A study file (TOML, YAML, JSON); docs/study.md has its fields.")
@click.option("--preset", metavar="NAME", help="main, contended, paper, ladder, sensitivity or quick.")
@click.option("--jobs", type=int, metavar="N", help="Processes on this machine (default: its cores).")
@click.option("--ray", "address", metavar="ADDRESS", help='A Ray cluster instead; "local" starts one here.')
@click.option("--out", metavar="DIR", help="Folder of rows and results (default: slo-NAME). Rows there are used.")
@click.option("--policy", "policies", multiple=True, metavar="P[,P...]", help="Instead of those of the study.")
@click.option("--first-seed", type=int, metavar="S", help="Instead of that of the study.")
@click.option("--seeds", type=int, metavar="K", help="How many, instead of as many as in the study.")
@click.option("--workflows", type=int, metavar="N", help="In every grid, instead of as many as in the study.")
@click.option("--parquet", is_flag=True, help="Write rows.parquet too (extra: parquet).")
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
@click.option("--retry-failed", is_flag=True, help="Run cells again that failed before.")
@click.option("--dry-run", is_flag=True, help="Say how much there is to do, and stop.")
@click.option("--quiet", is_flag=True, help="No progress and no words on standard error.")
def slo_command(
    config: str | None,
    preset: str | None,
    jobs: int | None,
    address: str | None,
    out: str | None,
    policies: tuple[str, ...],
    first_seed: int | None,
    seeds: int | None,
    workflows: int | None,
    parquet: bool,
    no_plots: bool,
    retry_failed: bool,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Which SLO scale does each policy meet: policies x clusters x workloads x loads x seeds.

    Results in DIR: rows.csv, study.md, study.json (hexsolve.study.slo.v1), plots/*.png. A study that was killed goes on
    where it was; rows do not depend on --jobs. Exit code 1 if any cell failed.
    """
    from hexsolve.study.slo_config import expand
    from hexsolve.study.slo_results import check_parquet
    from hexsolve.study.slo_run import run_cells
    from hexsolve.study.slo_store import Store

    if parquet:
        check_parquet()
    study, label, folder = _chosen(config, preset)
    study = _overridden(study, policies, first_seed, seeds, workflows)
    cells = expand(study, label, folder)
    target = Path(out or f"slo-{study.name}")
    if dry_run:
        places = len({cell.place.identity for cell in cells})
        click.echo(f"{study.name}: {len(cells)} cells ({places} places, {study.num_seeds} seeds) in {target}")
        return 0
    store = Store(target)
    with study_pool(jobs, address) as pool, study_progress(quiet=quiet) as report:
        results = run_cells(cells, store, pool, report, retry_failed=retry_failed)
    _write(target, study, results, parquet=parquet, plots=not no_plots)
    failed = sum(1 for _, row in results if row.error)
    if failed:
        say(f"{failed} of {len(results)} cells failed, see {target / 'study.md'}", quiet=quiet)
    say(f"wrote {target}", quiet=quiet)
    return 1 if failed else 0


def _chosen(config: str | None, preset: str | None) -> "tuple[Study, str, Path]":
    """The study, its name in errors, and the folder that its files are relative to."""
    import msgspec

    from hexsolve.datafile import nearest
    from hexsolve.study.slo_config import Study, read_study
    from hexsolve.study.slo_presets import PRESETS

    if (config is None) == (preset is None):
        raise InputError(f"study slo: expected --config FILE or --preset {'|'.join(PRESETS)}, one of the two")
    if config is not None:
        return read_study(Path(config)), config, Path(config).parent
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: no such preset; {nearest(str(preset), tuple(PRESETS))}")
    return msgspec.convert(PRESETS[preset], Study), f"preset {preset}", Path()


def _overridden(
    study: "Study", policies: tuple[str, ...], first_seed: int | None, seeds: int | None, workflows: int | None
) -> "Study":
    from msgspec.structs import replace

    for option, value, least in (("first-seed", first_seed, 0), ("seeds", seeds, 1), ("workflows", workflows, 1)):
        if value is not None and value < least:
            raise InputError(f"{option} = {value}: expected an integer >= {least}")
    if policies:
        study = replace(study, policies=parse_names(policies), variants=[], plotted=[])
    if workflows is not None:
        study = replace(study, grids=[replace(grid, workflows=workflows) for grid in study.grids])
    return replace(
        study,
        first_seed=study.first_seed if first_seed is None else first_seed,
        num_seeds=study.num_seeds if seeds is None else seeds,
    )


def _write(target: Path, study: "Study", results: "list[tuple[Cell, Row]]", *, parquet: bool, plots: bool) -> None:
    """All results are made before any is written."""
    from hexsolve.atomic import write_atomically
    from hexsolve.study.slo_results import compare, csv_bytes, document, flat_rows, markdown, parquet_bytes

    comparisons, records = compare(results, study.reference), flat_rows(results, study)
    files = {
        "rows.csv": csv_bytes(records),
        "study.md": markdown(study, comparisons).encode(),
        "study.json": json_bytes(document(study, results)),
    }
    if parquet:
        files["rows.parquet"] = parquet_bytes(records)
    if plots:
        from hexsolve.plot_slo import study_pictures

        files |= {f"plots/{name}": content for name, content in study_pictures(comparisons, study.plotted).items()}
        (target / "plots").mkdir(exist_ok=True)
    for name, content in files.items():
        write_atomically(target / name, (content,))
