"""The canonical workload line (DESIGN §6). Knows that format; knows nothing of the others.

One workflow a line::

    {"workflow_id", "class", "arrival_ms", "calls": [{"request_id", "input_length", "output_length",
     "dependencies": [{"request_id", "relation"}], "delay_ms", "kind", "cached_prefix", "prefix_group"}]}

Names follow Agentic Mooncake v2 where it has one. A dependency may also be the plain string of its `request_id`;
`relation` is written (see `hexsolve.workflow.relations`) and ignored when read. `class`, `delay_ms`, `kind`,
`cached_prefix`, `prefix_group` and `dependencies` may be left out. Unknown fields are refused: a misspelt
``delay`` must not pass as no delay.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from hexsolve.io.lines import Problems, decode, numbered_lines, placed
from hexsolve.workflow import Call, Workflow


class _Dependency(msgspec.Struct, forbid_unknown_fields=True):
    request_id: str
    relation: str = ""


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    request_id: str
    input_length: int
    output_length: int
    dependencies: list[str | _Dependency] = []
    delay_ms: float = 0.0
    kind: str = ""
    cached_prefix: int = 0
    prefix_group: str = ""


class _Workflow(msgspec.Struct, forbid_unknown_fields=True, rename={"workflow_class": "class"}):
    workflow_id: str
    arrival_ms: float
    calls: list[msgspec.Raw]
    workflow_class: str = ""


def read_canonical(path: Path, problems: Problems) -> Iterator[tuple[str, Workflow]]:
    """Yield (``"file:line"``, workflow) for every line that holds one; the rest is reported."""
    for where, line in numbered_lines(path, problems):
        with problems.guard():
            record = decode(line, _Workflow, where)
            calls: list[Call] = []
            for position, raw in enumerate(record.calls):
                with problems.guard():
                    calls.append(_call(raw, where, f"calls[{position}]"))
            if len(calls) == len(record.calls):
                yield where, placed(where, partial(_workflow, record, tuple(calls)))


def _workflow(record: _Workflow, calls: tuple[Call, ...]) -> Workflow:
    return Workflow(record.workflow_id, record.workflow_class, record.arrival_ms, calls)


def _call(raw: msgspec.Raw, where: str, inside: str) -> Call:
    record = decode(raw, _Call, where, inside=inside)
    names = tuple(name if isinstance(name, str) else name.request_id for name in record.dependencies)
    return placed(
        f"{where}: {inside}",
        lambda: Call(
            request_id=record.request_id,
            input_tokens=record.input_length,
            output_tokens=record.output_length,
            dependencies=names,
            delay_ms=record.delay_ms,
            kind=record.kind,
            cached_prefix_tokens=record.cached_prefix,
            prefix_group=record.prefix_group,
        ),
    )
