"""What commands print and write. Knows files, consoles and progress; knows nothing of what is in them."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from hexsolve.atomic import write_atomically
from hexsolve.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_IN_A_PIPE = 150

Report = Callable[[int], None]
"""Told how much is done."""


def check_targets(targets: Mapping[str, str | None]) -> None:
    """Refuse, before the work begins, files that could not be written; by option, None where not asked for.

    Raises
    ------
    InputError
        If a folder is missing or may not be written to, the file is a folder, or two options name one file.
    """
    seen: dict[Path, str] = {}
    for option, target in targets.items():
        if target is None or target == "-":
            continue
        path = Path(target).resolve()
        if path.is_dir():
            raise InputError(f"{option} {target}: expected a file, got a folder")
        if not path.parent.is_dir():
            raise InputError(f"{option} {target}: expected an existing folder, got {str(path.parent)!r}")
        if not os.access(path.parent, os.W_OK):
            raise InputError(f"{option} {target}: expected a folder that may be written to, got {str(path.parent)!r}")
        if path in seen:
            raise InputError(f"{option} {target}: expected a file of its own, got the one of {seen[path]}")
        seen[path] = option


def write_file(target: str, content: bytes) -> None:
    """Write the whole file or nothing; ``-`` is standard output."""
    if target == "-":
        click.echo(content, nl=not content.endswith(b"\n"))
        return
    write_atomically(Path(target), (content,))


def json_bytes(value: Any, *, indent: int | None = 1) -> bytes:
    """Strict JSON, newline included: numbers that are not finite become null."""
    return (json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console(*, stderr: bool = False) -> "Console":
    """A rich console; in a pipe it is as wide as a table needs, not 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else _WIDTH_IN_A_PIPE, highlight=False)


def say(text: str, *, quiet: bool) -> None:
    """A line on standard error, unless quiet."""
    if not quiet:
        click.echo(text, err=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[str, int], Report]]:
    """Gives ``start(label, total)``, which begins a task and returns where to report how much of it is done.

    Bars on a terminal, a line per task elsewhere, nothing if quiet; all on standard error.
    """
    if quiet:
        yield lambda label, total: lambda done: None
    elif not sys.stderr.isatty():
        yield _announce
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=console(stderr=True), transient=True) as bars:

            def start(label: str, total: int) -> Report:
                task = bars.add_task(label, total=total)
                return lambda done: bars.update(task, completed=done)

            yield start


def _announce(label: str, total: int) -> Report:
    click.echo(f"{label} ({total} workflows)", err=True)
    return lambda done: None
