"""A prefill replica: one batch at a time, in order of rank. Knows batches and prefixes; knows nothing of decode."""

from collections.abc import Callable

from hexsolve.cluster import Replica
from hexsolve.sim.calls import CallRun, RankQueue
from hexsolve.sim.kernel import PREFILL_END, Kernel
from hexsolve.sim.prefix_cache import PrefixCache


class PrefillServer:
    """Forms a batch whenever it is idle; time = profile.prefill_ms(new tokens, attention area).

    A batch takes calls in order of rank until the next one does not fit into `max_batch_tokens` new tokens; nobody
    overtakes. A call larger than that runs alone. With `chunk_tokens` a call brings at most so many tokens to a batch
    and comes first in the next ones until its prompt is covered. A prefix counts as cached only if it was held when
    the call's first batch began: siblings in one batch each compute it.

    Parameters
    ----------
    bind : callable
        Fixes the call's decode replica; False where it has none now, and the call is passed over.
    started, batch_started, finished : callable
        Told of each call that starts, each batch (replica index, end) and each call whose prompt is covered.
    wake : callable
        Asks for `dispatch` after the decision of this instant.
    """

    __slots__ = (
        "_batch",
        "_batch_started",
        "_bind",
        "_busy",
        "_chunk_tokens",
        "_finished",
        "_kernel",
        "_partial",
        "_prefill_ms",
        "_started",
        "_version",
        "_wake",
        "busy_ms",
        "cache",
        "dirty",
        "index",
        "max_batch_tokens",
        "num_batches",
        "queue",
        "up",
    )

    def __init__(
        self,
        index: int,
        replica: Replica,
        kernel: Kernel,
        queue: RankQueue,
        cache: PrefixCache | None,
        chunk_tokens: int | None,
        bind: Callable[[CallRun], bool],
        started: Callable[[float, CallRun], None],
        batch_started: Callable[[float, int, float], object],
        finished: Callable[[float, CallRun], None],
        wake: Callable[["PrefillServer"], None],
    ) -> None:
        self.index, self.queue, self.cache = index, queue, cache
        self.max_batch_tokens = replica.max_batch_tokens
        self.up, self.dirty = True, False
        self.num_batches, self.busy_ms = 0, 0.0
        self._prefill_ms = replica.profile.prefill_ms
        self._kernel, self._chunk_tokens = kernel, chunk_tokens
        self._bind, self._started = bind, started
        self._batch_started, self._finished, self._wake = batch_started, finished, wake
        self._busy = False
        self._batch: list[tuple[CallRun, int]] = []  # (call, tokens it brings)
        self._partial: list[CallRun] = []  # calls between two of their chunks
        self._version = 0

    def dispatch(self, now_ms: float) -> None:
        """Start a batch if the replica is idle and someone waits."""
        if self._busy or not self.up or not (self._partial or self.queue.members):
            return
        num_tokens = area = 0
        if self._partial:
            num_tokens, area = self._continue_partial()
        num_continued = len(self._batch)
        num_tokens, area = self._take_waiting(num_tokens, area)
        if not self._batch:
            return
        end_ms = now_ms + self._prefill_ms(num_tokens, area)
        self._busy = True
        self.num_batches += 1
        self.busy_ms += end_ms - now_ms
        self._batch_started(now_ms, self.index, end_ms)
        for run, _ in self._batch[num_continued:]:
            self._started(now_ms, run)
        self._kernel.at(end_ms, PREFILL_END, self._on_end, self._version)

    def forget(self, run: CallRun) -> None:
        """Let go of a call whose decode replica is lost; the batch it is in takes as long as before."""
        self._batch = [entry for entry in self._batch if entry[0] is not run]
        self._partial = [other for other in self._partial if other is not run]

    def fail(self) -> list[CallRun]:
        """Go down: forget batch and prefixes; returns the calls that were started and are lost."""
        self.up = self._busy = False
        self._version += 1
        lost = [run for run, _ in self._batch] + self._partial
        self._batch, self._partial = [], []
        if self.cache is not None:
            self.cache.clear()
        return lost

    def _continue_partial(self) -> tuple[int, int]:
        """Begin `_batch` with calls that are between chunks; returns its new tokens and attention area."""
        num_tokens = area = 0
        while self._partial and num_tokens < self.max_batch_tokens:
            run = self._partial.pop(0)
            tokens = self._share_of(run.prompt - run.computed, self.max_batch_tokens - num_tokens)
            self._batch.append((run, tokens))
            num_tokens += tokens
            area += tokens * (tokens + 2 * run.computed)
        return num_tokens, area

    def _take_waiting(self, num_tokens: int, area: int) -> tuple[int, int]:
        """Fill `_batch` from the queue; returns its new tokens and attention area."""
        queue, room = self.queue, self.max_batch_tokens - num_tokens
        passed_over: list[CallRun] = []
        while room > 0 and queue.members and (run := queue.head()) is not None:
            if not self._bind(run):
                queue.remove(run)
                passed_over.append(run)
                continue
            held = self._held(run)
            tokens = self._share_of(run.prompt - held, room)
            if not tokens:
                break
            queue.remove(run)
            run.computed = run.cached = held
            self._batch.append((run, tokens))
            area += tokens * (tokens + 2 * held)
            room -= tokens
        for run in passed_over:
            queue.push(run)
        return self.max_batch_tokens - room, area

    def _share_of(self, tokens: int, room: int) -> int:
        """Tokens of a call that go into a batch with `room` > 0 tokens left; 0 if it has to wait for the next."""
        if self._chunk_tokens is not None:
            return min(tokens, self._chunk_tokens, room)
        return tokens if tokens <= room or not self._batch else 0

    def _held(self, run: CallRun) -> int:
        """Prefix tokens of the call that this replica holds."""
        reusable = run.call.cached_prefix_tokens
        if self.cache is None or not reusable:
            return 0
        return min(reusable, self.cache.use((run.workflow.slot, run.call.prefix_group)))

    def _on_end(self, now_ms: float, version: int) -> None:
        if version != self._version:
            return
        batch, self._batch, self._busy = self._batch, [], False
        unfinished = []
        for run, tokens in batch:
            run.computed += tokens
            if run.computed < run.prompt:
                unfinished.append(run)
            else:
                self._finished(now_ms, run)
        self._partial = unfinished + self._partial
        self._wake(self)
