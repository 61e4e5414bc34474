"""What study commands share: where tasks run and how far they are. Knows pools and terminals; knows no study."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hexsolve.cli.output import console

if TYPE_CHECKING:
    from hexsolve.study.slo_pool import Pool
    from hexsolve.study.slo_run import OnProgress, Progress

_EVERY_S = 10.0  # between two lines of progress where there is no terminal
_PHASES = {
    "alone": "workflows alone (H_w)",
    "cells": "cells",
    "brackets": "bounds and clairvoyant search",
    "epochs": "single epochs",
}


@contextmanager
def study_pool(jobs: int | None, address: str | None) -> "Iterator[Pool]":
    """Processes here, or Ray where there is an address."""
    import os

    from hexsolve.study.slo_pool import LocalPool, RayPool

    if address is None:
        yield LocalPool(jobs if jobs is not None else os.cpu_count() or 1)
        return
    pool = RayPool(address, jobs)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def study_progress(*, quiet: bool) -> "Iterator[OnProgress]":
    """A bar with the estimated end on a terminal, a line now and then elsewhere, nothing if quiet."""
    import sys

    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Bars(*columns, TextColumn("{task.fields[rest]}"), console=console(stderr=True)) as bars:
            tasks = {}

            def show(progress: "Progress") -> None:
                if progress.phase not in tasks:
                    tasks[progress.phase] = bars.add_task(_PHASES[progress.phase], total=progress.total, rest="")
                bars.update(tasks[progress.phase], completed=progress.done, rest=_rest(progress))

            yield show
    else:
        yield _Lines()


class _Lines:
    """A line at the beginning and the end of a phase, and every ten seconds in between."""

    def __init__(self) -> None:
        self._next_s: dict[str, float] = {}

    def __call__(self, progress: "Progress") -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s.get(progress.phase, 0.0) or progress.done == progress.total:
            self._next_s[progress.phase] = now_s + _EVERY_S
            rest = _rest(progress)
            text = f"{_PHASES[progress.phase]}: {progress.done} of {progress.total}{', ' if rest else ''}{rest}"
            click.echo(text, err=True)


def _rest(progress: "Progress") -> str:
    """Failures and the estimated end, in words."""
    parts = [f"{progress.failed} failed"] if progress.failed else []
    if progress.left_s is not None and progress.done < progress.total:
        end = time.strftime("%H:%M:%S", time.localtime(time.time() + progress.left_s))
        parts.append(f"about {_duration(progress.left_s)} left, done at {end}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
