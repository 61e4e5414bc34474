"""Importer for workflow traces. Knows that format and which of its calls share a prefix; knows nothing of clusters.

One workflow a line: ``{"id", "arrival_s", "calls": [{"id", "prompt", "out", "cached", "deps", "delay", "kind"}]}``.

Rules, each with its reason:

* `delay` is in seconds, null is 0. It is cut at `max_delay_s` (60 by default): the delays of coding traces mix tool
  time with human pauses of up to hours.
* `arrival_s` null (no public DAG trace records arrivals) is 0: re-time with `hexsolve.arrivals.with_arrivals`.
* `samples = k` (game24 "value" calls: k samples drawn from one prompt) stays one call whose output is the total of
  its samples: the trace says how many tokens they have together, not each.
* Prefix groups: the "main" calls of a coding trace are one group; each chain of calls of one sub-agent is its own.
  In other traces with recorded reuse, calls of one kind with the same dependencies (samples of one prompt) are one.
* `cached` is reuse inside the workflow only: the first call of a group has 0, since what it could reuse belongs to an
  earlier turn or another sub-agent, which no replica of an exclusive run holds. `keep_foreign_prefix=True` keeps it.
* `cached >= prompt` is clipped to `prompt - 1`: at least one token must be computed to get a first output token.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from hexsolve.io.lines import Problems, decode, numbered_lines, placed
from hexsolve.workflow import Call, Workflow, non_negative_ms

MAX_DELAY_S = 60.0


class _Call(msgspec.Struct):
    id: int | str
    prompt: int
    out: int
    deps: list[int | str] = []
    cached: int | None = None
    delay: float | None = None
    kind: str = ""


class _Workflow(msgspec.Struct):
    id: str
    calls: list[_Call]
    arrival_s: float | None = None


def read_trace(
    path: Path,
    problems: Problems,
    *,
    max_delay_s: float = MAX_DELAY_S,
    keep_foreign_prefix: bool = False,
) -> Iterator[tuple[str, Workflow]]:
    """Yield (``"file:line"``, workflow); the workflow class is the file's stem."""
    for where, line in numbered_lines(path, problems):
        with problems.guard():
            record = decode(line, _Workflow, where)
            yield where, placed(where, partial(_workflow, record, path.stem, max_delay_s, keep_foreign_prefix))


def _workflow(record: _Workflow, workflow_class: str, max_delay_s: float, keep_foreign_prefix: bool) -> Workflow:
    groups = prefix_groups(record.calls)
    seen: set[str] = set()
    calls = []
    for call, group in zip(record.calls, groups, strict=True):
        reusable = group in seen or keep_foreign_prefix
        calls.append(_call(call, group, max_delay_s, reusable=reusable))
        seen.add(group)
    return Workflow(record.id, workflow_class, (record.arrival_s or 0.0) * 1e3, tuple(calls))


def _call(call: _Call, group: str, max_delay_s: float, *, reusable: bool) -> Call:
    delay_s = non_negative_ms(call.delay or 0.0, f"call {call.id!r}: delay")
    cached = min(call.cached or 0, call.prompt - 1) if reusable else 0
    return Call(
        request_id=str(call.id),
        input_tokens=call.prompt,
        output_tokens=call.out,
        dependencies=tuple(map(str, call.deps)),
        delay_ms=min(delay_s, max_delay_s) * 1e3,
        kind=call.kind,
        cached_prefix_tokens=cached,
        prefix_group=group,
    )


def prefix_groups(calls: list[_Call]) -> list[str]:
    """The prefix group of each call, by the rules of this module; ``""`` where the trace records no reuse."""
    if all(call.cached is None for call in calls):
        return [""] * len(calls)
    groups: dict[int | str, str] = {}
    kinds = {call.id: call.kind for call in calls}
    for call in calls:
        inherited = [groups[parent] for parent in call.deps if parent in groups and kinds[parent] == call.kind]
        if call.kind == "main":
            groups[call.id] = "main"
        elif call.kind.startswith("subagent:"):
            groups[call.id] = inherited[0] if len(inherited) == 1 else f"{call.kind}#{call.id}"
        else:
            groups[call.id] = f"{call.kind}@{','.join(map(str, call.deps))}"
    return [groups[call.id] for call in calls]
