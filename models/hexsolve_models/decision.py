"""What an epoch decides: replicas and start ticks. Knows their shape; does not judge them (see `referee`)."""

from dataclasses import dataclass, fields

import numpy as np

from hexsolve_models.objective import Ints, frozen_ints
from hexsolve_models.problem import Problem


@dataclass(frozen=True, eq=False)
class Decision:
    """One placement and schedule of every waiting call; read-only int64 arrays over calls.

    Parameters
    ----------
    prefill
        Prefill replica; -1 for locked calls.
    decode
        Decode replica.
    prefill_start
        Tick the prefill starts; -1 for locked calls.
    decode_start
        Tick the decode starts and the KV is taken.
    """

    prefill: Ints
    decode: Ints
    prefill_start: Ints
    decode_start: Ints

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, frozen_ints(f"decision.{field.name}", getattr(self, field.name), 1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Decision):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def arrival(self, problem: Problem) -> Ints:
        """[N] tick the KV is at the decode replica: prefill end + transfer, or the release of a locked call."""
        ticks = problem.release_tick.copy()
        for c in np.flatnonzero(problem.is_free):
            p, d = self.prefill[c], self.decode[c]
            ticks[c] = self.prefill_start[c] + problem.prefill_ticks[c, p] + problem.transfer(int(c))[p, d]
        return ticks

    def decode_finish(self, problem: Problem) -> Ints:
        """[N] tick the last output token is there."""
        ticks = problem.decode_ticks[np.arange(problem.num_calls), self.decode]
        return self.decode_start + ticks + problem.crowding(self.decode)

    def priority_order(self, problem: Problem) -> Ints:
        """[N] calls, most urgent first: by prefill start (free) or decode start (locked), ties by index.

        A queue has one order for both stages, so a decision whose decodes overtake one another is only approximated.
        """
        tick = np.where(problem.is_free, self.prefill_start, self.decode_start)
        return np.argsort(tick, kind="stable").astype(np.int64)
