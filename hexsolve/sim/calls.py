"""A call and a workflow on their way through the cluster. Know where they are; decide nothing."""

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from hexsolve.predict import CallView
from hexsolve.tables import EMPTY
from hexsolve.workflow import Call, Workflow

if TYPE_CHECKING:
    from hexsolve.sim.network import Flow
    from hexsolve.sim.ports import StatePort

HIDDEN = EMPTY  # not revealed
DONE = 6
_NOT_YET = -1.0


class CallRun:
    """One call from its workflow's arrival to its completion.

    Attributes
    ----------
    serial : order of reveal, the tie-break of every queue.
    slot, stage : slot and stage in the engine's state.
    prompt : tokens the next prefill must cover: input tokens, and output tokens whose KV was lost.
    computed : of these, cached or prefilled so far.
    generated : output tokens so far (while decoding: as of the last push-back; see `origin`).
    predicted : output tokens reserved for, in total; > generated while in decode.
    origin : step count of the decode replica at which the call had no output, so generated = steps - origin.
    target : step count at which it completes or outgrows its reservation.
    blocks : KV blocks reserved on the decode replica.
    blocked : whether it was ever first in a decode queue without fitting.
    on_host : whether its KV lies in host memory.
    attempt : prefills lost or repeated so far; tells events of an earlier attempt from those of this one.
    """

    __slots__ = (
        "attempt",
        "blocked",
        "blocks",
        "cached",
        "call",
        "computed",
        "decode",
        "decode_start_ms",
        "flow",
        "generated",
        "index",
        "on_host",
        "origin",
        "pending",
        "predicted",
        "prefill",
        "prefill_end_ms",
        "prefill_start_ms",
        "prompt",
        "pushbacks",
        "ready_ms",
        "serial",
        "slot",
        "stage",
        "target",
        "transfer_end_ms",
        "view",
        "workflow",
    )

    def __init__(self, workflow: "WorkflowRun", index: int, call: Call) -> None:
        self.workflow, self.index, self.call = workflow, index, call
        self.pending = len(call.dependencies)
        self.stage = HIDDEN
        self.serial = self.slot = self.prefill = self.decode = -1
        self.prompt = call.input_tokens
        self.computed = self.cached = self.generated = self.predicted = 0
        self.origin = self.target = self.blocks = self.attempt = self.pushbacks = 0
        self.on_host = self.blocked = False
        self.flow: Flow | None = None
        self.ready_ms = self.prefill_start_ms = self.prefill_end_ms = _NOT_YET
        self.transfer_end_ms = self.decode_start_ms = _NOT_YET
        source = workflow.workflow
        self.view = CallView(
            source.workflow_id,
            source.workflow_class,
            call.request_id,
            call.kind,
            call.input_tokens,
            call.cached_prefix_tokens,
            call.prefix_group,
        )


class WorkflowRun:
    """One workflow from arrival to finish: its calls, who waits for whom, and how many are left."""

    __slots__ = ("children", "index", "prefix_groups", "runs", "slot", "unfinished", "workflow")

    def __init__(self, workflow: Workflow, index: int, slot: int) -> None:
        self.workflow, self.index, self.slot = workflow, index, slot
        self.runs = [CallRun(self, i, call) for i, call in enumerate(workflow.calls)]
        self.children = workflow.children_indices()
        self.unfinished = len(self.runs)
        self.prefix_groups: set[str] = set()  # groups some prefill replica has been given


class Ranks:
    """The engine's ranks; queues re-read them only when `revision` says that waiting calls changed theirs."""

    __slots__ = ("revision", "state")

    def __init__(self, state: "StatePort") -> None:
        self.state = state
        self.revision = 0

    def of(self, run: CallRun) -> int:
        """Rank of one call; smaller first."""
        return int(self.state.rank[run.slot])

    def of_all(self, runs: list[CallRun]) -> list[int]:
        """Ranks of many calls."""
        if len(runs) < 16:
            rank = self.state.rank
            return [int(rank[run.slot]) for run in runs]
        ranks: list[int] = np.take(self.state.rank, [run.slot for run in runs]).tolist()
        return ranks


class RankQueue:
    """Calls that wait at one replica, smallest (rank, serial) first, by the ranks of the latest revision.

    Attributes
    ----------
    members : the calls by serial, in order of entry; to be changed by the methods only.
    """

    __slots__ = ("_heap", "_ranks", "_read_at", "members")

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.members: dict[int, CallRun] = {}
        self._heap: list[tuple[int, int, CallRun]] = []  # may hold calls that have left
        self._read_at = -1

    def push(self, run: CallRun) -> None:
        """Let a call wait here."""
        self.members[run.serial] = run
        if self._read_at == self._ranks.revision:
            heappush(self._heap, (self._ranks.of(run), run.serial, run))

    def head(self) -> CallRun | None:
        """The call that is first, if any."""
        members = self.members
        if len(members) < 2:
            return next(iter(members.values()), None)
        if self._read_at != self._ranks.revision:
            self._read_ranks()
        heap = self._heap
        while heap[0][1] not in members:
            heappop(heap)
        return heap[0][2]

    def remove(self, run: CallRun) -> None:
        """Take a call out."""
        del self.members[run.serial]

    def take_all(self) -> list[CallRun]:
        """Empty the queue; the calls in order of entry."""
        runs = list(self.members.values())
        self.members.clear()
        return runs

    def _read_ranks(self) -> None:
        runs = list(self.members.values())
        ranks = self._ranks.of_all(runs)
        self._heap = [(rank, run.serial, run) for rank, run in zip(ranks, runs, strict=True)]
        heapify(self._heap)
        self._read_at = self._ranks.revision
