"""Agentic Mooncake v2, read and written. Knows that format; knows nothing of the others.

The materialised interchange format of NVIDIA Dynamo's trace replay ("Agentic Mooncake v2 begins with a required
versioned header", docs of ai-dynamo/dynamo; structs `AgenticMooncakeHeader`, `AgenticMooncakeRow` of its data-gen
crate). A header line, then one line per request::

    {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size", "hash_id_scope": "local",
     "source": {"format", "digest"}}
    {"request_id", "play_id", "session_id", "model", "input_length", "output_length", "hash_ids", "not_before_ms",
     "dependencies": [{"request_id", "trigger", "delay_ms", "relation"}]}

Mapping. A play is a workflow, a session one of its prefix groups, `not_before_ms` of the first root the arrival.
`request_id` is unique in the whole file, so it is written as ``<workflow>:<call>`` and that prefix is taken off again.

* Each edge has its own delay, a `Call` has one: the largest. Exact where the delays of a call's edges are equal, as
  this writer makes them. `not_before_ms` of a request with dependencies is ignored (it replays recorded clock times).
* Trigger ``dispatch`` (start when the other request starts) is replaced by that request's own dependencies plus its
  delay: the reveal stands for the dispatch, since the waiting time of a replay is not known in advance.
* Reuse is written as hash ids: a call repeats the ids of its group's latest call over its cached prefix, rounded down
  to whole blocks, and has fresh ids after that. Read back: the longest prefix shared with an earlier call of the play
  and session, in blocks.
* Not carried by the format, so lost on a round trip: step kinds, and a prefix no earlier call of the group produced.
  The workflow class is `source.format`, which the writer fills if the workload has a single class.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import msgspec

from hexsolve.errors import InputError
from hexsolve.io.lines import Problems, decode, numbered_lines, placed, to_json
from hexsolve.workflow import Call, Workflow, Workload, non_negative_ms, relations

SCHEMA = "dynamo.agentic_mooncake"
VERSION = 2
BLOCK_TOKENS = 64


class _Source(msgspec.Struct):
    format: str
    digest: str


class _Header(msgspec.Struct):
    schema: Literal["dynamo.agentic_mooncake"]
    version: Literal[2]
    block_size: int
    hash_id_scope: Literal["local"]
    source: _Source


class _Edge(msgspec.Struct):
    request_id: str
    trigger: Literal["dispatch", "completion"]
    delay_ms: float
    relation: Literal["sequence", "spawn", "join", "replay_barrier"]


class _Row(msgspec.Struct):
    request_id: str
    play_id: str
    session_id: str
    input_length: int
    output_length: int
    not_before_ms: float
    model: str
    hash_ids: list[int] | None = None
    dependencies: list[_Edge] = []


_Placed = tuple[str, _Row]  # ("file:line", row)


def read_agentic_mooncake(path: Path, problems: Problems) -> Iterator[tuple[str, Workflow]]:
    """Yield (``"file:line"`` of its first request, workflow) for every play, in the order of their first requests."""
    header: _Header | None = None
    plays: dict[str, list[_Placed]] = defaultdict(list)
    for number, (where, line) in enumerate(numbered_lines(path, problems)):
        with problems.guard():
            if number == 0:
                header = decode(line, _Header, where)
                _check_block_size(header, where)
            else:
                row = decode(line, _Row, where)
                _check_times(row, where)
                plays[row.play_id].append((where, row))
    if header is None:
        return
    for play_id, rows in plays.items():
        with problems.guard():
            yield rows[0][0], _workflow(play_id, rows, header)


def _check_block_size(header: _Header, where: str) -> None:
    if header.block_size < 1:
        raise InputError(f"{where}: block_size: expected an int >= 1, got {header.block_size}")


def _check_times(row: _Row, where: str) -> None:
    non_negative_ms(row.not_before_ms, f"{where}: not_before_ms")
    for position, edge in enumerate(row.dependencies):
        non_negative_ms(edge.delay_ms, f"{where}: dependencies[{position}].delay_ms")


def _workflow(play_id: str, rows: list[_Placed], header: _Header) -> Workflow:
    roots = [row.not_before_ms for _, row in rows if not row.dependencies]
    arrival_ms = min(roots, default=0.0)
    waits = _completion_waits(rows, arrival_ms)
    cached = _shared_prefixes(rows, header.block_size)
    calls = []
    for where, row in rows:
        wait = waits[row.request_id]
        calls.append(placed(where, lambda row=row, wait=wait: _call(row, wait, cached[row.request_id])))  # type: ignore[misc]
    return placed(rows[0][0], lambda: Workflow(play_id, header.source.format, arrival_ms, tuple(calls)))


def _call(row: _Row, waits: tuple[dict[str, float], float], cached: int) -> Call:
    parents, offset_ms = waits
    return Call(
        request_id=_local(row.request_id, row.play_id),
        input_tokens=row.input_length,
        output_tokens=row.output_length,
        dependencies=tuple(_local(name, row.play_id) for name in parents),
        delay_ms=max(parents.values(), default=offset_ms),
        cached_prefix_tokens=cached,
        prefix_group="" if row.session_id == row.play_id else _local(row.session_id, row.play_id),
    )


def _completion_waits(rows: list[_Placed], arrival_ms: float) -> dict[str, tuple[dict[str, float], float]]:
    """For each request: {request whose completion it waits for: delay_ms}, and its offset from the arrival if none.

    A dispatch edge becomes the edges of the request it names; that request must stand earlier in the file.
    """
    waits: dict[str, tuple[dict[str, float], float]] = {}
    for where, row in rows:
        parents: dict[str, float] = {}
        offset_ms = 0.0 if row.dependencies else row.not_before_ms - arrival_ms
        for edge in row.dependencies:
            if edge.trigger == "completion":
                inherited, start_ms = {edge.request_id: 0.0}, 0.0
            elif edge.request_id in waits:
                inherited, start_ms = waits[edge.request_id]
            else:
                raise InputError(
                    f"{where}: dependencies: expected a dispatch edge from an earlier request, got {edge.request_id!r}"
                )
            offset_ms = max(offset_ms, start_ms + edge.delay_ms)
            for name, delay_ms in inherited.items():
                parents[name] = max(parents.get(name, 0.0), delay_ms + edge.delay_ms)
        waits[row.request_id] = (parents, offset_ms)
    return waits


def _shared_prefixes(rows: list[_Placed], block_tokens: int) -> dict[str, int]:
    """Tokens each request shares with an earlier request of its session; a hash id stands for its whole prefix."""
    seen: dict[str, set[int]] = defaultdict(set)
    cached: dict[str, int] = {}
    for _, row in rows:
        held = seen[row.session_id]
        blocks = 0
        for block in row.hash_ids or []:
            if block not in held:
                break
            blocks += 1
        cached[row.request_id] = max(0, min(blocks * block_tokens, row.input_length - 1))
        held.update(row.hash_ids or [])
    return cached


def _local(name: str, play_id: str) -> str:
    return name.removeprefix(f"{play_id}:")


def agentic_mooncake_lines(workload: Workload, *, llm: str = "unspecified") -> Iterator[str]:
    """Yield the header and one line per call; `llm` fills the required `model` field."""
    classes = {workflow.workflow_class for workflow in workload.workflows}
    source = classes.pop() if len(classes) == 1 else "mixed"
    yield to_json(
        {
            "schema": SCHEMA,
            "version": VERSION,
            "block_size": BLOCK_TOKENS,
            "hash_id_scope": "local",
            "source": {"format": source or "hexsolve", "digest": workload.digest()},
        }
    )
    fresh = count()
    for workflow in workload.workflows:
        yield from (to_json(row) for row in _rows(workflow, llm, fresh))


def _rows(workflow: Workflow, llm: str, fresh: "count[int]") -> Iterator[dict[str, Any]]:
    words = relations(workflow)
    latest: dict[str, list[int]] = {}  # prefix group -> hash ids of its latest call
    for position in workflow.topological_order():
        call = workflow.calls[position]
        held = latest.get(call.prefix_group, [])[: call.cached_prefix_tokens // BLOCK_TOKENS]
        num_blocks = -(-call.input_tokens // BLOCK_TOKENS)
        hash_ids = held + [next(fresh) for _ in range(num_blocks - len(held))]
        latest[call.prefix_group] = hash_ids
        yield _row(workflow, call, words[position], hash_ids, llm)


def _row(workflow: Workflow, call: Call, relation: str, hash_ids: list[int], llm: str) -> dict[str, Any]:
    play_id = workflow.workflow_id
    offset_ms = 0.0 if call.dependencies else call.delay_ms
    return {
        "request_id": f"{play_id}:{call.request_id}",
        "play_id": play_id,
        "session_id": f"{play_id}:{call.prefix_group}" if call.prefix_group else play_id,
        "model": llm,
        "input_length": call.input_tokens,
        "output_length": call.output_tokens,
        "hash_ids": hash_ids,
        "not_before_ms": workflow.arrival_ms + offset_ms,
        "dependencies": [
            {
                "request_id": f"{play_id}:{name}",
                "trigger": "completion",
                "delay_ms": call.delay_ms,
                "relation": relation,
            }
            for name in call.dependencies
        ],
    }
