"""Everything compiled in this package, compiled or loaded from disk before the first problem is in a hurry."""

from dataclasses import replace

import numpy as np

from hexsolve_models.bounds import lower_bound, standalone
from hexsolve_models.objective import total_stretch
from hexsolve_models.problem import Problem
from hexsolve_models.timetable import earliest_finish


def warm_up() -> None:
    """Bound and schedule the two calls."""
    problem = _two_calls()
    lower_bound(problem)
    _ = standalone(problem).via_prefill
    earliest_finish(problem, np.arange(2), compiled=True)


def warm_up_relaxations() -> None:
    """Climb and search with multipliers so bad that there is something left for every kernel to do."""
    from hexsolve_models.relaxations.ascent import Multipliers, ascend
    from hexsolve_models.relaxations.exact import search_all
    from hexsolve_models.relaxations.pool import pool_of
    from hexsolve_models.relaxations.prices import LEVELS
    from hexsolve_models.relaxations.rents import fit_rents

    objective = total_stretch([0], [1], [0, 0], scale=1)  # more would be too large for the search
    problem = replace(_two_calls(), workflow=np.zeros(2, dtype=np.int64), objective=objective)
    pool = pool_of(problem, earliest_finish(problem, np.arange(2), compiled=True), 1000)
    assert pool is not None
    nothing = Multipliers(np.zeros(2), np.ones((2, LEVELS)))
    rents = fit_rents(pool, nothing.share, 1)
    ascend(pool, nothing, 1, rents=rents)
    search_all(pool, nothing, rents, 100, 10_000)


def _two_calls() -> Problem:
    """Two calls that crowd one replica, queue for another and wait for no one."""
    one, two = np.ones((1, 1), dtype=np.int64), np.ones((2, 1), dtype=np.int64)
    none = np.zeros(0, dtype=np.int64)
    return Problem(
        prefill_ticks=9 * two, locked_decode=-two[:, 0], release_tick=0 * two[:, 0], transfer_base_ticks=one,
        transfer_rate_ticks=one, transfer_blocks=two[:, 0], decode_ticks=two, kv_blocks=two[:, 0], kv_capacity=one[0],
        prefill_free_tick=one[0], held_decode=none, held_start=none, held_end=none, held_blocks=none,
        workflow=np.arange(2), objective=total_stretch([0, 0], [1, 1], [0, 0]), crowding_ticks=two,
        uncrowded_calls=one[0], edge_before=none, edge_after=none, edge_lag=none,
    )  # fmt: skip
