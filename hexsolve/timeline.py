"""A recording as a Chrome trace, which ui.perfetto.dev opens. Knows slices, arrows and counters; records nothing.

* A process per replica. In it lanes of slices: prefill batches; calls in decode, as many lanes as calls ran at once.
* An arrow from the prefill of a call to its decode: KV transfer and wait for capacity.
* Counters per replica: calls that wait, and KV tokens reserved for decode.
* A process with the open workflows in lanes, and marks where a replica went down or came up.

Format: "Trace Event Format" (Google, 2016), JSON object form. Times are microseconds, kept to a nanosecond.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any

from hexsolve.cluster import Cluster
from hexsolve.recording import Level, Mark, Recording, Span

TraceEvent = dict[str, Any]

_NANOSECOND_US = 1e-3
_ORDER = {"M": 0, "C": 1, "X": 2, "i": 3, "s": 4, "f": 5}  # a slice before the arrows that bind to it


def chrome_trace(recordings: Mapping[str, Recording], cluster: Cluster) -> dict[str, Any]:
    """The JSON object of a trace with one or several recordings side by side, each named by its key."""
    events: list[TraceEvent] = []
    arrows = count(1)
    stride = 1 + cluster.num_prefill + cluster.num_decode
    for position, (label, recording) in enumerate(recordings.items()):
        prefix = f"{label} · " if label else ""
        events += _run_events(recording, cluster, prefix, 1 + position * stride, arrows)
    events.sort(key=lambda event: (event.get("ts", -1.0), _ORDER[event["ph"]]))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"cluster": cluster.name, "llm": cluster.llm}}


def _run_events(
    recording: Recording, cluster: Cluster, prefix: str, first_pid: int, arrows: "count[int]"
) -> Iterator[TraceEvent]:
    pids = {"workflow": first_pid, "prefill": first_pid + 1, "decode": first_pid + 1 + cluster.num_prefill}
    yield from _lanes(recording.spans["workflow"], pids["workflow"], "workflows", f"{prefix}workflows")
    for role, pool in (("prefill", cluster.prefill), ("decode", cluster.decode)):
        for index, replica in enumerate(pool):
            spans = [span for span in recording.spans[role] if span.replica == index]
            pid = pids[role] + index
            for event in _lanes(spans, pid, replica.name, f"{prefix}{replica.name} ({role})"):
                yield event
                if event["ph"] == "X":
                    yield from _arrow(event, pids["prefill"], arrows)
    yield from _counters(recording.levels, pids)
    for mark in recording.marks:
        yield _mark(mark, pids[mark.role] + mark.replica)


def _lanes(spans: Sequence[Span], pid: int, lane_name: str, process_name: str) -> Iterator[TraceEvent]:
    """Names of the process and its lanes, and a slice per span, none overlapping another in its lane."""
    yield _name("process_name", pid, 0, name=process_name)
    yield _name("process_sort_index", pid, 0, sort_index=pid)
    named = -1
    for lane, span in _in_lanes(spans):
        if lane > named:
            named = lane
            yield _name("thread_name", pid, lane, name=lane_name if lane == 0 else f"{lane_name} ·{lane + 1}")
            yield _name("thread_sort_index", pid, lane, sort_index=lane)
        yield _slice(span, pid, lane)


def _in_lanes(spans: Iterable[Span]) -> Iterator[tuple[int, Span]]:
    """Each span, by start, with the lowest lane that is free."""
    busy: list[tuple[float, int]] = []  # (end, lane)
    free: list[int] = []
    for span in sorted(spans, key=lambda span: (span.start_ms, span.end_ms)):
        while busy and busy[0][0] <= span.start_ms:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else len(busy)
        heappush(busy, (span.end_ms, lane))
        yield lane, span


def _slice(span: Span, pid: int, tid: int) -> TraceEvent:
    start_us = _us(span.start_ms)
    args = dict(span.details)
    if span.source is not None:
        args["source"] = span.source
    duration_us = round(_us(span.end_ms) - start_us, 3)
    return {"ph": "X", "name": span.name, "pid": pid, "tid": tid, "ts": start_us, "dur": duration_us, "args": args}


def _arrow(decode: TraceEvent, first_prefill_pid: int, arrows: "count[int]") -> Iterator[TraceEvent]:
    """Begins within the last nanosecond of the prefill slice: at its very end it would bind to nothing."""
    source = decode["args"].pop("source", None)
    if source is None:
        return
    replica, end_ms = source
    both = {"name": "KV transfer", "cat": "kv", "id": next(arrows)}
    start_us = round(_us(end_ms) - _NANOSECOND_US, 3)
    yield {"ph": "s", "pid": first_prefill_pid + replica, "tid": 0, "ts": start_us, **both}
    yield {"ph": "f", "bp": "e", "pid": decode["pid"], "tid": decode["tid"], "ts": decode["ts"], **both}


def _counters(levels: Sequence[Level], pids: Mapping[str, int]) -> Iterator[TraceEvent]:
    """One sample per counter and instant: the last one, since an instant's events happen together."""
    last = {(level.role, level.replica, level.counter, _us(level.time_ms)): level.value for level in levels}
    for role, replica, counter in dict.fromkeys((level.role, level.replica, level.counter) for level in levels):
        last.setdefault((role, replica, counter, 0.0), 0)
    for (role, replica, counter, time_us), value in last.items():
        pid = pids[role] + replica
        yield {"ph": "C", "name": counter, "pid": pid, "tid": 0, "ts": time_us, "args": {counter.split()[0]: value}}


def _mark(mark: Mark, pid: int) -> TraceEvent:
    return {"ph": "i", "name": mark.text, "pid": pid, "tid": 0, "ts": _us(mark.time_ms), "s": "p"}


def _name(kind: str, pid: int, tid: int, **args: Any) -> TraceEvent:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


def _us(time_ms: float) -> float:
    return round(time_ms * 1e3, 3)
