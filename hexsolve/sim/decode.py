"""A decode replica: continuous batching under a KV limit. Knows steps, contexts and blocks; knows nothing of prefill.

Between two changes of the batch, step times follow a line (`Profile.decode_segment`), so that k steps take
k·s0 + slope·k(k-1)/2: the replica jumps from one change to the next and never walks single steps. What it decodes:
`output_tokens` steps per call (real engines get the first token from the prefill; one step of difference).
"""

from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, sqrt

from hexsolve.cluster import BLOCK_TOKENS, Replica
from hexsolve.decode_pace import DecodePace
from hexsolve.sim.calls import CallRun, RankQueue, Ranks
from hexsolve.sim.kernel import DECODE_END, Kernel, SimulationError

_NO_TARGET = -1


class DecodeServer:
    """Calls join and leave at step boundaries; a call is admitted when its whole reservation fits.

    Admission is in order of rank and strict: nobody overtakes a head that does not fit. The reservation covers prompt
    and predicted output in blocks of 16 tokens. A call that outlives its prediction takes the refined prediction if
    there is room, else `growth_tokens` more; if even that does not fit, the running call of lowest priority (possibly
    itself) is pushed back until it does.

    Parameters
    ----------
    growth_tokens : int
        Least growth of a reservation.
    load_ms_per_token : float or None
        Time per token to bring back KV from host memory; None if a pushed-back call is recomputed.
    joined, finished, grown, recompute : callable
        Told (now_ms, call) of each call that joins the batch, completes, has a larger reservation or must be
        prefilled again.
    refine : callable
        ``refine(call, generated)``: total output tokens now expected.
    wake : callable
        Asks for `dispatch` after the decision of this instant.
    """

    __slots__ = (
        "_context",
        "_finished",
        "_grown",
        "_growth_tokens",
        "_joined",
        "_joiners",
        "_kernel",
        "_load_ms_per_token",
        "_loading",
        "_num_admitted",
        "_num_ahead",
        "_pace",
        "_ranks",
        "_recompute",
        "_refine",
        "_running",
        "_s0_ms",
        "_slope_ms",
        "_step",
        "_stopping",
        "_t0_ms",
        "_targets",
        "_version",
        "_waiting",
        "_wake",
        "busy_ms",
        "capacity_blocks",
        "dirty",
        "free_blocks",
        "index",
        "least_free_blocks",
        "max_running",
        "num_blocked",
        "num_growths",
        "num_pushbacks",
        "num_segments",
        "queue",
        "up",
    )

    def __init__(
        self,
        index: int,
        replica: Replica,
        kernel: Kernel,
        queue: RankQueue,
        ranks: Ranks,
        growth_tokens: int,
        load_ms_per_token: float | None,
        joined: Callable[[float, CallRun], None],
        finished: Callable[[float, CallRun], None],
        grown: Callable[[float, CallRun], None],
        recompute: Callable[[float, CallRun], None],
        refine: Callable[[CallRun, int], int],
        wake: Callable[["DecodeServer"], None],
    ) -> None:
        self.index, self.queue, self._ranks, self._kernel = index, queue, ranks, kernel
        self.capacity_blocks = self.free_blocks = self.least_free_blocks = replica.kv_capacity_tokens // BLOCK_TOKENS
        self.max_running = replica.max_running
        self.up, self.dirty, self.busy_ms = True, False, 0.0
        self.num_segments = self.num_growths = self.num_pushbacks = self.num_blocked = 0
        self._pace = DecodePace(replica.profile)
        self._waiting = queue.members
        self._growth_tokens, self._load_ms_per_token = growth_tokens, load_ms_per_token
        self._joined, self._finished, self._grown = joined, finished, grown
        self._recompute, self._refine, self._wake = recompute, refine, wake
        self._running: dict[int, CallRun] = {}  # the batch, by serial
        self._loading: dict[int, CallRun] = {}  # admitted, KV on its way from host memory
        self._joiners: list[CallRun] = []  # admitted and loaded, join at the next boundary
        self._targets: list[tuple[int, int, CallRun]] = []  # heap of (target step, serial, call); may hold stale ones
        self._context = 0  # tokens of the batch at step `_step`
        self._step = 0  # steps done by `_t0_ms`, when the current segment began
        self._t0_ms = self._s0_ms = self._slope_ms = 0.0
        self._num_ahead = 0  # steps until the scheduled boundary; 0 = at a boundary or idle
        self._stopping = False  # the scheduled boundary is the next one, to let calls join
        self._num_admitted = 0
        self._version = 0

    def dispatch(self, now_ms: float) -> None:
        """Admit who fits, now if at a boundary, else at the next one."""
        if not self.up or self._stopping:
            return
        if self._num_ahead:
            if self._joiners or self._fitting_head() is not None:
                self._stop_at_next_boundary(now_ms)
            if self._num_ahead:
                return
        self._admit(now_ms)
        if self._running:
            self._begin_segment(now_ms)

    def fail(self, now_ms: float) -> list[CallRun]:
        """Go down: all KV is lost; returns the calls that were admitted, with `generated` up to date."""
        self._advance_to(now_ms)
        lost = [*self._running.values(), *self._loading.values(), *self._joiners]
        for run in self._running.values():
            run.generated = min(self._step - run.origin, run.call.output_tokens - 1)
        self.up = self._stopping = False
        self.free_blocks, self._context, self._num_ahead, self._num_admitted = self.capacity_blocks, 0, 0, 0
        self._version += 1
        for holder in (self._running, self._loading, self._joiners, self._targets):
            holder.clear()
        return lost

    def blocks_for(self, run: CallRun) -> int:
        """KV blocks of a call's prompt and predicted output."""
        return -(-(run.call.input_tokens + run.predicted) // BLOCK_TOKENS)

    def _fitting_head(self) -> CallRun | None:
        """The call that waits first, if its reservation fits now."""
        if not self._waiting or (head := self.queue.head()) is None:
            return None
        if self._num_admitted < self.max_running and self.blocks_for(head) <= self.free_blocks:
            return head
        if not self._num_admitted:
            raise SimulationError(self._too_large(head))
        if not head.blocked:
            head.blocked = True
            self.num_blocked += 1
        return None

    def _admit(self, now_ms: float) -> None:
        if self._joiners:
            for run in self._joiners:
                self._join(now_ms, run)
            self._joiners.clear()
        while (head := self._fitting_head()) is not None:
            self.queue.remove(head)
            self._num_admitted += 1
            self._reserve(head, self.blocks_for(head))
            if head.on_host:
                self._load(now_ms, head)
            else:
                self._join(now_ms, head)

    def _reserve(self, run: CallRun, blocks: int) -> None:
        """Change a call's reservation to `blocks`, which must fit."""
        self.free_blocks += run.blocks - blocks
        run.blocks = blocks
        if self.free_blocks < self.least_free_blocks:
            self.least_free_blocks = self.free_blocks

    def _join(self, now_ms: float, run: CallRun) -> None:
        run.origin = self._step - run.generated
        self._context += run.call.input_tokens + run.generated
        self._running[run.serial] = run
        self._set_target(run)
        self._joined(now_ms, run)

    def _set_target(self, run: CallRun) -> None:
        run.target = run.origin + min(run.predicted, run.call.output_tokens)
        heappush(self._targets, (run.target, run.serial, run))

    def _load(self, now_ms: float, run: CallRun) -> None:
        assert self._load_ms_per_token is not None
        self._loading[run.serial] = run
        load_ms = (run.call.input_tokens + run.generated) * self._load_ms_per_token
        self._kernel.at(now_ms + load_ms, DECODE_END, self._on_loaded, (run, run.attempt))

    def _on_loaded(self, _now_ms: float, arg: tuple[CallRun, int]) -> None:
        run, attempt = arg
        if attempt == run.attempt and self._loading.pop(run.serial, None) is not None:
            run.on_host = False
            self._joiners.append(run)
            self._wake(self)

    def _begin_segment(self, now_ms: float) -> None:
        """Jump as far as the batch and the step-time line stay the same."""
        targets, running = self._targets, self._running
        first = targets[0]
        while first[2].target != first[0] or first[1] not in running:
            heappop(targets)
            first = targets[0]
        batch = len(running)
        self._s0_ms, self._slope_ms, most_steps = self._pace.segment(batch, self._context / batch)
        steps = first[0] - self._step
        if steps > most_steps:
            steps = max(1, ceil(most_steps))
        self._t0_ms = now_ms
        self.num_segments += 1
        self._schedule_boundary(steps)

    def _schedule_boundary(self, steps: int) -> None:
        self._num_ahead = steps
        self._version = version = self._version + 1
        time_ms = self._t0_ms + (steps * self._s0_ms + self._slope_ms * (steps * (steps - 1) // 2))
        self._kernel.at(time_ms, DECODE_END, self._on_boundary, version)

    def _steps_ms(self, steps: int) -> float:
        """Time of the first `steps` steps of the segment."""
        return steps * self._s0_ms + self._slope_ms * (steps * (steps - 1) // 2)

    def _num_steps_by(self, now_ms: float) -> int:
        """Smallest k so that the segment's k-th step ends at or after `now_ms`: the next boundary."""
        s0_ms, slope_ms, elapsed_ms = self._s0_ms, self._slope_ms, now_ms - self._t0_ms
        if elapsed_ms <= 0.0:
            return 0
        linear = s0_ms - slope_ms / 2.0  # slope/2·k² + linear·k = elapsed
        root = sqrt(max(0.0, linear * linear + 2.0 * slope_ms * elapsed_ms))
        steps = int(2.0 * elapsed_ms / (linear + root)) or 1
        while steps > 1 and self._t0_ms + self._steps_ms(steps - 1) >= now_ms:
            steps -= 1
        while self._t0_ms + self._steps_ms(steps) < now_ms:
            steps += 1
        return steps

    def _stop_at_next_boundary(self, now_ms: float) -> None:
        steps = self._num_steps_by(now_ms)
        if steps == 0:
            self._version += 1
            self._num_ahead = 0
            return
        self._stopping = True
        if steps < self._num_ahead:
            self._schedule_boundary(steps)

    def _advance(self, now_ms: float, steps: int) -> None:
        self._step += steps
        self._context += steps * len(self._running)
        self.busy_ms += now_ms - self._t0_ms

    def _advance_to(self, now_ms: float) -> None:
        """Count the steps that are complete by `now_ms`."""
        if self._num_ahead:
            steps = self._num_steps_by(now_ms)
            whole = steps if self._t0_ms + self._steps_ms(steps) <= now_ms else steps - 1
            self._advance(now_ms, whole)

    def _on_boundary(self, now_ms: float, version: int) -> None:
        if version != self._version:
            return
        self._advance(now_ms, self._num_ahead)
        self._num_ahead, self._stopping = 0, False
        targets, step = self._targets, self._step
        growing: list[CallRun] = []
        while targets and targets[0][0] <= step:
            target, serial, run = heappop(targets)
            if run.target != target or serial not in self._running:
                continue
            run.target = _NO_TARGET
            run.generated = step - run.origin
            if run.generated == run.call.output_tokens:
                self._release(run)
                self._finished(now_ms, run)
            else:
                growing.append(run)
        if growing:
            self._grow(now_ms, growing)
        self._wake(self)

    def _release(self, run: CallRun) -> None:
        """Take a call out of the batch, `generated` being up to date."""
        del self._running[run.serial]
        self._context -= run.call.input_tokens + run.generated
        self.free_blocks += run.blocks
        self._num_admitted -= 1
        run.blocks = 0
        run.target = _NO_TARGET

    def _grow(self, now_ms: float, growing: list[CallRun]) -> None:
        growing.sort(key=self._priority)
        for run in growing:
            while run.serial in self._running:
                if self._extend(run):
                    self.num_growths += 1
                    self._set_target(run)
                    self._grown(now_ms, run)
                    break
                outgrown = run.generated >= self._most_output_tokens(run)
                self._push_back(now_ms, run if outgrown else max(self._running.values(), key=self._priority))

    def _priority(self, run: CallRun) -> tuple[int, int]:
        return self._ranks.of(run), run.serial

    def _extend(self, run: CallRun) -> bool:
        """Reserve for the refined prediction, or for `growth_tokens` more, whichever fits; False if neither does."""
        most = self._most_output_tokens(run)
        least = run.generated + self._growth_tokens
        for predicted in (max(self._refine(run, run.generated), least), least):
            run.predicted = min(predicted, most)
            blocks = self.blocks_for(run)
            if run.predicted > run.generated and blocks <= self.free_blocks + run.blocks:
                self._reserve(run, blocks)
                return True
        return False

    def _most_output_tokens(self, run: CallRun) -> int:
        """Output tokens of the call that this replica could hold with nothing else on it."""
        return self.capacity_blocks * BLOCK_TOKENS - run.call.input_tokens

    def _push_back(self, now_ms: float, run: CallRun) -> None:
        run.generated = self._step - run.origin
        self._release(run)
        run.pushbacks += 1
        self.num_pushbacks += 1
        if run.predicted <= run.generated:
            run.predicted = run.generated + self._growth_tokens
        if self._load_ms_per_token is None or run.generated >= self._most_output_tokens(run):
            self._recompute(now_ms, run)
            return
        run.predicted = min(run.predicted, self._most_output_tokens(run))
        run.on_host = True
        self.queue.push(run)

    def _too_large(self, run: CallRun) -> str:
        return (
            f"call {run.view.request_id!r} of workflow {run.view.workflow_id!r}: the engine chose decode replica "
            f"{self.index}: expected at most {self.capacity_blocks} KV blocks, got {self.blocks_for(run)}"
        )
