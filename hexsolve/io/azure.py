"""Importer for the Azure LLM inference traces of 2023 (CSV). Knows that format; every workflow is one call.

Columns ``TIMESTAMP,ContextTokens,GeneratedTokens`` (Azure/AzurePublicDataset). Each row becomes a workflow of one
call; arrivals count from the earliest row. Time stamps carry 100 ns digits, which are kept.
"""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from hexsolve.errors import InputError
from hexsolve.io.lines import Problems, numbered_lines, placed
from hexsolve.workflow import Call, Workflow

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def read_azure(path: Path, problems: Problems) -> Iterator[tuple[str, Workflow]]:
    """Yield (``"file:line"``, workflow of one call); ids are ``<stem>-<row>``, the class is the file's stem."""
    rows: list[tuple[str, float, int, int]] = []
    for number, (where, line) in enumerate(numbered_lines(path, problems)):
        with problems.guard():
            if number == 0:
                _check_header(line.decode(), where)
            else:
                rows.append((where, *_row(line.decode(), where)))
    if not rows:
        problems.report(InputError(f"{path}:2: row: expected at least one data row, got none"))
    start_s = min((time_s for _, time_s, _, _ in rows), default=0.0)
    for number, (where, time_s, prompt, output) in enumerate(rows):
        with problems.guard():
            call = placed(where, partial(Call, "0", prompt, output))
            yield where, Workflow(f"{path.stem}-{number}", path.stem, (time_s - start_s) * 1e3, (call,))


def _check_header(line: str, where: str) -> None:
    if line.strip() != HEADER:
        raise InputError(f"{where}: header: expected {HEADER}, got {line.strip()[:80]!r}")


def _row(line: str, where: str) -> tuple[float, int, int]:
    cells = line.strip().split(",")
    if len(cells) != 3:
        raise InputError(f"{where}: row: expected 3 cells, got {len(cells)}")
    prompt = _count(cells[1], "ContextTokens", where)
    output = _count(cells[2], "GeneratedTokens", where)
    return _seconds(cells[0], where), prompt, output


def _count(cell: str, field: str, where: str) -> int:
    if not cell.isascii() or not cell.isdigit():
        raise InputError(f"{where}: {field}: expected a whole number, got {cell!r}")
    return int(cell)


def _seconds(cell: str, where: str) -> float:
    """Seconds since the epoch; the fraction is read apart, because datetime keeps only six digits of it."""
    whole, _, fraction = cell.partition(".")
    try:
        return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or '0'}")
    except ValueError as error:
        raise InputError(f"{where}: TIMESTAMP: expected YYYY-MM-DD HH:MM:SS.f, got {cell!r}") from error
