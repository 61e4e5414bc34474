"""Reading, checking and writing workload files of any known format. Knows which format is whose; parses none itself."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hexsolve.atomic import write_atomically
from hexsolve.errors import InputError
from hexsolve.io.agentic_mooncake import SCHEMA, agentic_mooncake_lines, read_agentic_mooncake
from hexsolve.io.azure import HEADER, read_azure
from hexsolve.io.canonical import read_canonical
from hexsolve.io.lines import Problems, decode, numbered_lines
from hexsolve.io.mooncake import read_mooncake
from hexsolve.io.trace import read_trace
from hexsolve.workflow import Workflow, Workload, canonical_line

Reader = Callable[..., Iterator[tuple[str, Workflow]]]

READERS: dict[str, Reader] = {
    "agentic-mooncake": read_agentic_mooncake,
    "azure": read_azure,
    "canonical": read_canonical,
    "mooncake": read_mooncake,
    "trace": read_trace,
}
WRITERS: dict[str, Callable[..., Iterable[str]]] = {
    "agentic-mooncake": agentic_mooncake_lines,
    "canonical": lambda workload: map(canonical_line, workload.workflows),
}


def detect_format(path: str | os.PathLike[str]) -> str:
    """Name of the format, from the first line of the file.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or its first line belongs to no known format.
    """
    where, line = next(numbered_lines(Path(path), Problems()))
    if line.decode().strip() == HEADER:
        return "azure"
    fields = decode(line, dict[str, msgspec.Raw], where)
    if "schema" in fields and decode(fields["schema"], str, where, inside="schema") == SCHEMA:
        return "agentic-mooncake"
    for name, marks in (
        ("canonical", {"workflow_id", "calls"}),
        ("trace", {"id", "calls"}),
        ("mooncake", {"timestamp", "input_length"}),
    ):
        if marks <= fields.keys():
            return name
    raise InputError(
        f"{where}: line: expected one of the formats {', '.join(READERS)}, got fields {sorted(fields)[:8]}"
    )


def read_workload(path: str | os.PathLike[str], format: str = "auto", **options: Any) -> Workload:
    """Read a workload; its name is the file's stem.

    Parameters
    ----------
    format : str
        A key of `READERS`, or ``"auto"``.
    **options
        What the reader of that format takes, such as ``max_delay_s`` (trace, mooncake) or ``sessions`` (mooncake).

    Raises
    ------
    InputError
        On the first thing that cannot be used, as ``file:line: field: expected ..., got ...``.
    """
    file = Path(path)
    reader = _reader(file, format)
    return Workload(file.stem, tuple(_unique(reader(file, Problems(), **options), Problems())))


def validate_file(path: str | os.PathLike[str], format: str = "auto") -> list[str]:
    """Every problem of the file, with line numbers, in the order found; empty if the file can be used.

    At most one problem is listed per call and, if all its calls are right, one for the workflow as a whole.
    """
    file = Path(path)
    problems = Problems(collect=True)
    with problems.guard():
        for _ in _unique(_reader(file, format)(file, problems), problems):
            pass
    return problems.found


def write_workload(workload: Workload, path: str | os.PathLike[str], format: str = "canonical", **options: Any) -> None:
    """Write the whole workload or, on any failure, nothing (a file already there is then untouched).

    Parameters
    ----------
    format : str
        A key of `WRITERS`. ``"canonical"`` keeps everything; see `hexsolve.io.agentic_mooncake` for what that loses.
    """
    if format not in WRITERS:
        raise InputError(f"format: expected one of {', '.join(WRITERS)}, got {format!r}")
    write_atomically(Path(path), (line.encode() for line in WRITERS[format](workload, **options)))


def _reader(path: Path, format: str) -> Reader:
    name = detect_format(path) if format == "auto" else format
    if name not in READERS:
        raise InputError(f"format: expected auto or one of {', '.join(READERS)}, got {format!r}")
    return READERS[name]


def _unique(workflows: Iterator[tuple[str, Workflow]], problems: Problems) -> Iterator[Workflow]:
    """The workflows, each `workflow_id` once; a second one is reported with the places of both."""
    first: dict[str, str] = {}
    for where, workflow in workflows:
        name = workflow.workflow_id
        if name in first:
            problems.report(
                InputError(f"{where}: workflow_id: expected once, got {name!r} again (first {first[name]})")
            )
        else:
            first[name] = where
            yield workflow
