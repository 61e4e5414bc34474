"""`hexsolve import` and `hexsolve validate`: workload, cluster and snapshot files. Knows which file is which."""

import json
from pathlib import Path

import click

from hexsolve.cli.app import BAD_INPUT, OK
from hexsolve.cli.output import check_targets, say
from hexsolve.errors import InputError
from hexsolve.io import READERS, WRITERS, detect_format, read_workload, validate_file, write_workload

_CLUSTER_SUFFIXES = (".toml", ".yaml", ".yml")
_WITH_MAX_DELAY, _WITH_SESSIONS = ("trace", "mooncake"), ("mooncake",)


@click.command("import")
@click.argument("file")
@click.option("--format", "source_format", default="auto", help=f"auto, {', '.join(READERS)}.")
@click.option("--out", required=True, help="File to write.")
@click.option("--to", "target_format", default="canonical", help=f"{' or '.join(WRITERS)}.")
@click.option("--max-delay-s", type=float, help="Longest tool delay to keep (trace, mooncake; default 60).")
@click.option("--sessions", is_flag=True, help="Join requests that extend each other into workflows (mooncake).")
@click.option("--quiet", is_flag=True, help="No words on standard error.")
def import_command(
    file: str,
    source_format: str,
    out: str,
    target_format: str,
    max_delay_s: float | None,
    sessions: bool,
    quiet: bool,
) -> None:
    """Read a trace and write it as a workload file.

    The whole file is written or, if a line is wrong, nothing.
    """
    for option, name, known in (
        ("--format", source_format, ("auto", *READERS)),
        ("--to", target_format, tuple(WRITERS)),
    ):
        if name not in known:
            raise InputError(f"{option} {name}: expected one of {', '.join(known)}")
    check_targets({"--out": out})
    if out == "-":
        raise InputError("--out -: expected a file")
    source_format = detect_format(file) if source_format == "auto" else source_format
    options: dict[str, float | bool] = {}
    if max_delay_s is not None:
        _check_applies("--max-delay-s", source_format, _WITH_MAX_DELAY)
        if not max_delay_s >= 0:
            raise InputError(f"--max-delay-s {max_delay_s}: expected a number >= 0")
        options["max_delay_s"] = max_delay_s
    if sessions:
        _check_applies("--sessions", source_format, _WITH_SESSIONS)
        options["sessions"] = True
    workload = read_workload(file, source_format, **options)
    write_workload(workload, out, target_format)
    say(f"{out}: {len(workload.workflows)} workflows, {workload.num_calls} calls ({source_format})", quiet=quiet)


def _check_applies(option: str, source_format: str, formats: tuple[str, ...]) -> None:
    if source_format not in formats:
        raise InputError(f"{option}: expected a file of format {' or '.join(formats)}, got {source_format}")


@click.command("validate")
@click.argument("files", nargs=-1, required=True)
@click.option("--quiet", is_flag=True, help="Say nothing about files that are right.")
def validate_command(files: tuple[str, ...], quiet: bool) -> int:
    """Check workload, cluster and snapshot files.

    Every problem of a workload file is shown with its line; exit code 2 if there is any.
    """
    code = OK
    for file in files:
        found, what = _problems(file)
        for problem in found:
            click.echo(f"error: {problem}", err=True)
            code = BAD_INPUT
        if not found and not quiet:
            click.echo(f"{file}: ok ({what})")
    return code


def _problems(file: str) -> tuple[list[str], str]:
    """What is wrong with a file, and if nothing is, what it holds."""
    try:
        kind = _kind(Path(file))
        if kind == "workload":
            found = validate_file(file)
            return found, "" if found else _describe_workload(file)
        return [], _describe_cluster(file) if kind == "cluster" else _describe_snapshot(file)
    except InputError as error:
        return [str(error)], ""


def _kind(path: Path) -> str:
    """``cluster``, ``snapshot`` or ``workload``: by suffix, a .json file by its keys."""
    if path.suffix in _CLUSTER_SUFFIXES:
        return "cluster"
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return "workload" if not path.is_file() else "snapshot"
        if isinstance(content, dict) and "calls" not in content:
            return "cluster" if "llm" in content else "snapshot"
    return "workload"


def _describe_workload(file: str) -> str:
    workload = read_workload(file)
    return f"{detect_format(file)} workload: {len(workload.workflows)} workflows, {workload.num_calls} calls"


def _describe_cluster(file: str) -> str:
    from hexsolve.catalog import library
    from hexsolve.cluster_file import read_cluster

    cluster = read_cluster(Path(file), library())
    return f"cluster {cluster.name!r}: {cluster.num_prefill}P+{cluster.num_decode}D, {cluster.llm}"


def _describe_snapshot(file: str) -> str:
    from hexsolve.snapshot_file import read_snapshot, restore

    saved = read_snapshot(file)
    state = restore(saved, "round-robin").state
    return f"snapshot at {saved.now_ms:g} ms: {len(saved.events)} events, {len(state.workflows)} open workflows"
