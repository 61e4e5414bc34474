"""Importer for Mooncake request traces (FAST'25). Knows that format and what its block hashes say about sessions.

One request a line: ``{"timestamp": ms, "input_length", "output_length", "hash_ids": [...]}``. A hash id names one
512-token block *and everything before it*, so two requests that share an id share the whole prefix up to it.

By default each request is a workflow of one call and its prefix counts for nothing: reuse between workflows is not
modelled. With ``sessions=True`` a request that extends an earlier one becomes its child, in the same workflow:

* B extends A when B contains the last complete block of A, and A has at least two complete blocks (the first one is a
  system prompt that all requests share); among several such A the one with the longest prefix, then the latest, counts.
* ``cached_prefix_tokens`` is the length of that shared prefix; all calls of a session are one prefix group.
* ``delay_ms`` is the time between the two arrivals, at most `max_delay_s`: an upper bound of the pause, since A's own
  service time is not recorded. Time stamps are quantised to about 3 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hexsolve.errors import InputError
from hexsolve.io.lines import Problems, decode, numbered_lines, placed
from hexsolve.io.trace import MAX_DELAY_S
from hexsolve.workflow import Call, Workflow, non_negative_ms

BLOCK_TOKENS = 512
_MIN_SHARED_BLOCKS = 2


class _Row(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


@dataclass(slots=True)
class _Session:
    where: str
    arrival_ms: float
    calls: list[Call] = field(default_factory=list)


def read_mooncake(
    path: Path, problems: Problems, *, sessions: bool = False, max_delay_s: float = MAX_DELAY_S
) -> Iterator[tuple[str, Workflow]]:
    """Yield (``"file:line"``, workflow); ids are ``<stem>-<number>``, the class is the file's stem.

    Raises
    ------
    InputError
        Besides the usual, if `sessions` is asked for and time stamps go back.
    """
    rows = _rows(path, problems)
    grouped = _sessions(rows, problems, max_delay_s) if sessions else _singles(rows, problems)
    for number, session in enumerate(grouped):
        name = f"{path.stem}-{number}"
        yield session.where, Workflow(name, path.stem, session.arrival_ms, tuple(session.calls))


def _rows(path: Path, problems: Problems) -> Iterator[tuple[str, _Row]]:
    for where, line in numbered_lines(path, problems):
        with problems.guard():
            row = decode(line, _Row, where)
            non_negative_ms(row.timestamp, f"{where}: timestamp")
            yield where, row


def _singles(rows: Iterator[tuple[str, _Row]], problems: Problems) -> Iterator[_Session]:
    for where, row in rows:
        with problems.guard():
            yield _Session(where, row.timestamp, [_call(row, "0", where)])


def _sessions(rows: Iterator[tuple[str, _Row]], problems: Problems, max_delay_s: float) -> list[_Session]:
    """Sessions in the order of their first request."""
    sessions: list[_Session] = []
    last_block: dict[int, tuple[_Session, str, float]] = {}  # last complete block -> (session, request_id, ms)
    latest_ms = 0.0
    for where, row in rows:
        with problems.guard():
            if row.timestamp < latest_ms:
                raise InputError(
                    f"{where}: timestamp: expected >= {latest_ms} (sessions need order), got {row.timestamp}"
                )
            latest_ms = row.timestamp
            parent, shared = _longest_extended(row, last_block)
            if parent is None:
                session = _Session(where, row.timestamp)
                call = _call(row, "0", where, group="session")
                sessions.append(session)
            else:
                session, name, parent_ms = parent
                delay_ms = min(row.timestamp - parent_ms, max_delay_s * 1e3)
                call = _call(row, str(len(session.calls)), where, (name,), delay_ms, shared, "session")
            session.calls.append(call)
            if (complete := _complete_blocks(row)) >= _MIN_SHARED_BLOCKS:
                last_block[row.hash_ids[complete - 1]] = (session, call.request_id, row.timestamp)
    return sessions


def _longest_extended(
    row: _Row, last_block: dict[int, tuple[_Session, str, float]]
) -> tuple[tuple[_Session, str, float] | None, int]:
    for position in range(_complete_blocks(row) - 1, -1, -1):
        if (parent := last_block.get(row.hash_ids[position])) is not None:
            return parent, (position + 1) * BLOCK_TOKENS
    return None, 0


def _complete_blocks(row: _Row) -> int:
    return min(row.input_length // BLOCK_TOKENS, len(row.hash_ids))


def _call(
    row: _Row,
    name: str,
    where: str,
    dependencies: tuple[str, ...] = (),
    delay_ms: float = 0.0,
    shared: int = 0,
    group: str = "",
) -> Call:
    cached = max(0, min(shared, row.input_length - 1))
    return placed(
        where, lambda: Call(name, row.input_length, row.output_length, dependencies, delay_ms, "", cached, group)
    )
