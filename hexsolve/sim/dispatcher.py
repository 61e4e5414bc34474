"""When the engine decides and what its decisions move. Knows queues and wake-ups; knows nothing of a call's physics."""

from collections.abc import Sequence
from math import inf

from hexsolve.sim.calls import CallRun, Ranks
from hexsolve.sim.decode import DecodeServer
from hexsolve.sim.kernel import WAKE_UP, Kernel, SimulationError
from hexsolve.sim.ports import EVENT_KINDS, EnginePort
from hexsolve.sim.prefill import PrefillServer
from hexsolve.sim.records import Counters
from hexsolve.tables import WAIT_PREFILL

MOST_IDLE_WAKE_UPS = 1000  # wake-ups in a row without any event of a call before the run counts as stuck


class Dispatcher:
    """After the events of an instant: one decision if any of them calls for it, then work for servers that were woken.

    Attributes
    ----------
    by_slot : revealed calls that are not done, by slot in the engine's state.
    unplaced : calls that wait for prefill in no queue, by serial: new, requeued, or without a feasible replica.
    num_left : workflows not finished; the run ends when it is 0.
    needs : event kind -> whether the engine wants to decide after such an event.
    decision_due : whether an event of this instant was of such a kind.
    """

    def __init__(self, kernel: Kernel, engine: EnginePort, counters: Counters) -> None:
        self._kernel, self._engine, self._counters = kernel, engine, counters
        self.needs = {kind: engine.needs_decision(kind) for kind in EVENT_KINDS}
        self.ranks = Ranks(engine.state)
        self.prefill: Sequence[PrefillServer] = ()
        self.decode: Sequence[DecodeServer] = ()
        self.by_slot: dict[int, CallRun] = {}
        self.unplaced: dict[int, CallRun] = {}
        self.num_left = 0
        self._dirty: list[PrefillServer | DecodeServer] = []
        self.decision_due = False
        self._num_idle_wake_ups = self._num_scheduled = 0
        self._wake_up_ms = inf

    def wake(self, server: PrefillServer | DecodeServer) -> None:
        """Let a server look for work once the decision of this instant is taken."""
        if not server.dirty:
            server.dirty = True
            self._dirty.append(server)

    def settle(self, now_ms: float) -> bool:
        """All events of this instant are processed: decide, start work; True when no workflow is left."""
        if not self.num_left:
            return True
        if self.decision_due:
            self.decision_due = False
            self._decide(now_ms)
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for server in dirty:
                server.dirty = False
                server.dispatch(now_ms)
        return False

    def plan_wake_up(self) -> None:
        """Be there when the engine next wants to decide on its own account."""
        time_ms = self._engine.next_wakeup_ms()
        if time_ms < inf and time_ms != self._wake_up_ms:
            self._wake_up_ms = max(time_ms, self._kernel.now_ms)
            self._kernel.at(self._wake_up_ms, WAKE_UP, self._on_wake_up, self._wake_up_ms)

    def _decide(self, now_ms: float) -> None:
        moved = self._engine.decide(now_ms)
        self._counters.decisions += 1
        reordered = self.ranks.revision != self.ranks.state.rank_revision
        self.ranks.revision = self.ranks.state.rank_revision
        for slot in moved:
            run = self.by_slot.get(slot)
            if run is not None and run.stage == WAIT_PREFILL and run.prefill >= 0:
                self._move(run)
        if self.unplaced:
            for run in list(self.unplaced.values()):
                self._enter_queue(run)
        if reordered:  # another call may be first in a decode queue now
            for server in self.decode:
                if server.queue.members:
                    self.wake(server)
        self.plan_wake_up()

    def _move(self, run: CallRun) -> None:
        """Follow a new plan out of one prefill queue; `_enter_queue` follows it into the other."""
        self.wake(self.prefill[run.prefill])
        if int(self.ranks.state.prefill[run.slot]) != run.prefill:
            self.prefill[run.prefill].queue.remove(run)
            self._counters.moves += 1
            run.prefill = -1
            self.unplaced[run.serial] = run

    def _enter_queue(self, run: CallRun) -> None:
        index = int(self.ranks.state.prefill[run.slot])
        if index >= 0 and self.prefill[index].up:
            del self.unplaced[run.serial]
            run.prefill = index
            self.prefill[index].queue.push(run)
            self.wake(self.prefill[index])

    def _on_wake_up(self, now_ms: float, planned_ms: float) -> None:
        if planned_ms != self._wake_up_ms:
            return
        self._wake_up_ms = inf
        self.decision_due = True
        num_scheduled = self._kernel.num_scheduled
        idle = num_scheduled <= self._num_scheduled + 1  # nothing but this wake-up has been scheduled since the last
        self._num_idle_wake_ups = self._num_idle_wake_ups + 1 if idle else 0
        self._num_scheduled = num_scheduled
        if self._num_idle_wake_ups > MOST_IDLE_WAKE_UPS:
            waiting = ", ".join(str(run.view.request_id) for run in list(self.by_slot.values())[:5])
            raise SimulationError(
                f"at {now_ms} ms: {MOST_IDLE_WAKE_UPS} wake-ups of the engine moved nothing; waiting: {waiting}"
            )
