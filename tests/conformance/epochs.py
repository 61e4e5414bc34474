"""Tiny epochs whose optimum is worked out by hand. Each returns (problem, optimum); every solver path must reach it.

Unless a comment says otherwise: no transfer time, KV for all, each call its own workflow, cost = sum of finishes.
"""

from collections.abc import Callable

import numpy as np
from epoch_problems import make_problem

from hexsolve_models import Objective, Problem

Epoch = Callable[[], tuple[Problem, int]]


def one_call() -> tuple[Problem, int]:
    # Prefill 3, transfer 2, decode 5: done at 10.
    return make_problem([[3]], [[5]], transfer=[[2]]), 10


def faster_prefill_is_farther() -> tuple[Problem, int]:
    # Via P0: 2 + 9 + 5 = 16. Via P1: 6 + 1 + 5 = 12.
    return make_problem([[2, 6]], [[5]], transfer=[[9], [1]]), 12


def slower_end_decides() -> tuple[Problem, int]:
    # Transfers [[0, 9], [9, 9]] are the larger of the ends' own (0, 9) and (0, 9), as with pair bandwidths.
    # (P0, D0) 4 + 0 + 6 = 10; (P0, D1) 4 + 9 + 1 = 14; (P1, D0) 1 + 9 + 6 = 16; (P1, D1) 1 + 9 + 1 = 11.
    return make_problem([[4, 1]], [[6, 1]], transfer=[[0, 9], [9, 9]]), 10


def enforced_pair() -> tuple[Problem, int]:
    # Column minima are 0, row minima are 0: only an enforced row forbids (P0, D1) at 1 + 0 + 1 = 2.
    # (P0, D1) 1 + 7 + 1 = 9, (P1, D0) 2 + 7 + 2 = 11, (P0, D0) 1 + 0 + 2 = 3, (P1, D1) 2 + 0 + 1 = 3.
    return make_problem([[1, 2]], [[2, 1]], transfer=[[0, 7], [7, 0]]), 3


def shortest_prefill_first() -> tuple[Problem, int]:
    # One prefill replica, prefills 5 and 2, decodes 1: the short one first gives (2 + 1) + (7 + 1) = 11, else 14.
    return make_problem([[5], [2]], [[1], [1]]), 11


def batch_in_progress() -> tuple[Problem, int]:
    # P0 is fast but busy until 10: 10 + 1 + 1 = 12. P1 is slow but free: 8 + 1 = 9.
    return make_problem([[1, 8]], [[1]], free_tick=[10, 0]), 9


def kv_capacity_moves_the_second_call() -> tuple[Problem, int]:
    # Both prefer D0 (5 against 9) after a prefill of 1 each on its own replica, but D0 holds 10 blocks and each needs
    # 6. One moves: 6 + 10 = 16. One waits: 6 + 11 = 17.
    return make_problem([[1, -1], [-1, 1]], [[5, 9], [5, 9]], kv=[6, 6], capacity=[10, 100]), 16


def kv_wait_is_cheaper_than_moving() -> tuple[Problem, int]:
    # As above but D1 takes 20: one waits, 6 + 11 = 17; one moves, 6 + 21 = 27.
    return make_problem([[1, -1], [-1, 1]], [[5, 20], [5, 20]], kv=[6, 6], capacity=[10, 100]), 17


def small_call_overtakes_in_the_gap() -> tuple[Problem, int]:
    # 8 of 10 blocks are held until 20. The big call (5 blocks) waits: 20 + 4 = 24. The small one (2) fits: 2 + 3 = 5,
    # prefilled after the big one on the only prefill replica or before it: 1 + 1 ticks either way. 24 + 4 = 28.
    return make_problem([[1], [1]], [[4], [3]], kv=[5, 2], capacity=[10], held=[(0, 0, 20, 8)]), 28


def held_interval_in_the_future() -> tuple[Problem, int]:
    # An in-flight call takes all KV during [4, 10). Ready at 1, decode 5 would run into it: start at 10, done at 15.
    return make_problem([[1]], [[5]], kv=[1], capacity=[10], held=[(0, 4, 10, 10)]), 15


def held_beyond_capacity() -> tuple[Problem, int]:
    # Over-subscribed until 6 (12 held, 10 there): nothing fits before. 6 + 2 = 8.
    return make_problem([[1]], [[2]], kv=[1], capacity=[10], held=[(0, 0, 6, 12)]), 8


def locked_call_yields() -> tuple[Problem, int]:
    # The locked call (10 ticks, KV there at 0) and the free one (ready at 1, 2 ticks) share a replica for one.
    # Free first: 3 + 13 = 16. Locked first: 10 + 12 = 22.
    return make_problem([[-1], [1]], [[10], [2]], kv=[6, 6], capacity=[10], locked=[0, -1]), 16


def slowest_call_is_the_workflow() -> tuple[Problem, int]:
    # Calls 0, 1 of one workflow, 2 of another; prefills 2, 2, 3 on one replica, decodes 1. Cost = last finish of each.
    # Order 0, 1, 2: 5 + 8 = 13. Order 2, 0, 1: 8 + 4 = 12. Splitting the pair gains nothing: 0, 2, 1: 8 + 6 = 14.
    return make_problem([[2], [2], [3]], [[1], [1], [1]], workflow=[0, 0, 1]), 12


def tails_count() -> tuple[Problem, int]:
    # One workflow, prefills 3 and 3, decodes 1, 10 ticks follow call 1: it goes first. max(7 + 0, 4 + 10) = 14.
    return make_problem([[3], [3]], [[1], [1]], workflow=[0, 0], tail=[0, 10]), 14


def late_workflow_first() -> tuple[Problem, int]:
    # Cost max(0, F - 6) and max(0, F - 20), prefills 5 and 5, decodes 1. Urgent first: 0 + 0. The other way: 5 + 0.
    return make_problem([[5], [5]], [[1], [1]], slope=[[0, 1], [0, 1]], intercept=[[0, -20], [0, -6]]), 0


def largest_of_two() -> tuple[Problem, int]:
    # The larger of 3 F_0 and F_1; prefills 2 and 2, decodes 1. Call 0 first: max(9, 5) = 9. Else max(15, 3) = 15.
    return make_problem([[2], [2]], [[1], [1]], slope=[[3], [1]], aggregate="max"), 9


def weights_break_ties() -> tuple[Problem, int]:
    # One workflow of two calls: F is 5 either way (prefills 2 and 2, decodes 1), 10 F = 50. Weights 1 and 3 put call 1
    # first: 1 * 5 + 3 * 3 = 14.
    return make_problem([[2], [2]], [[1], [1]], workflow=[0, 0], slope=[[10]], weight=[1, 3]), 64


def transfer_rounds_up() -> tuple[Problem, int]:
    # 3 ticks per 1024 blocks, 400 blocks: 1.17 ticks, so 2. 1 + 2 + 1 = 4.
    return make_problem([[1]], [[1]], rate=[[3]], moved=[400]), 4


def company_is_slower_than_moving() -> tuple[Problem, int]:
    # Prefills of 1 on own replicas. D0 takes 4 alone and 7 for two, D1 takes 6. Both on D0 8 + 8, apart 5 + 7 = 12.
    return make_problem([[1, -1], [-1, 1]], [[4, 6]] * 2, crowding=[[3, 3]] * 2), 12


def company_is_faster_than_moving() -> tuple[Problem, int]:
    # As above but D1 takes 12: both on D0 8 + 8 = 16, apart 5 + 13 = 18.
    return make_problem([[1, -1], [-1, 1]], [[4, 12]] * 2, crowding=[[3, 3]] * 2), 16


def third_call_is_one_too_many() -> tuple[Problem, int]:
    # Three prefills of 1 on own replicas; two may share D0 at 4, three take 6. D1 takes 6: 5 + 5 + 7 = 17, not 3 * 7.
    apart = np.where(np.eye(3, dtype=int) == 1, 1, -1)
    return make_problem(apart, [[4, 6]] * 3, crowding=[[2, 2]] * 3, uncrowded=[2, 2]), 17


def company_counts_however_far_apart() -> tuple[Problem, int]:
    # Prefills of 10 on one replica, decodes of 2 on one replica, 5 more for two: 10 + 7 and 20 + 7, though they never
    # meet. Crowding is by number, not by time.
    return make_problem([[10]] * 2, [[2]] * 2, crowding=[[5]] * 2), 44


def company_holds_its_kv_longer() -> tuple[Problem, int]:
    # Two locked decodes of 4, of 7 together, 6 of 10 blocks each: one after the other, 7 + 14 = 21.
    return make_problem([[-1]] * 2, [[4]] * 2, kv=[6, 6], capacity=[10], locked=[0, 0], crowding=[[3]] * 2), 21


def child_waits_for_finish_and_lag() -> tuple[Problem, int]:
    # The parent is done at 2 + 3 = 5. The child starts 4 later: 9 + 1 + 1 = 11. 5 + 11 = 16.
    return make_problem([[2], [1]], [[3], [1]], edges=[(0, 1, 4)]), 16


def prefill_replica_waits_for_a_child() -> tuple[Problem, int]:
    # Calls 0, 1 of one workflow, 1 after 0; prefills 5, 1 and 2 on one replica, decodes 1. Costs 5 F_0 + F_1.
    # 0, idle for 1, 1, 2: child 6 + 1 + 1 = 8, other 9 + 1: 40 + 10 = 50. 0, 2, 1: 5 * 9 + 8 = 53. 2, 0, 1: 5 * 10 + 3.
    epoch = make_problem([[5], [1], [2]], [[1]] * 3, workflow=[0, 0, 1], slope=[[5], [1]], edges=[(0, 1, 0)])
    return epoch, 50


def late_child_of_two_parents() -> tuple[Problem, int]:
    # Own prefill replicas. Parents are done at 1 + 2 = 3 and 2 + 5 = 7, lags 6 and 1: the child starts at 9, not 8.
    # 3 + 7 + (9 + 1 + 1) = 21.
    apart = np.where(np.eye(3, dtype=int) == 1, [[1], [2], [1]], -1)
    return make_problem(apart, [[2], [5], [1]], edges=[(0, 2, 6), (1, 2, 1)]), 21


def one_long_call_or_two_short_ones_late() -> tuple[Problem, int]:
    # Nothing but lateness counts, weights 3, 1, 1, all due at 9. Prefills 8, 4, 4 on one replica, decodes 1. The long
    # one first is just on time at 9, and both others are late: 2. The short ones are on time at 5 and 9: 3.
    nothing = [[0]] * 3
    return make_problem([[8], [4], [4]], [[1]] * 3, slope=nothing, due=[9] * 3, late=[3, 1, 1]), 2


def lateness_beats_the_shorter_sum() -> tuple[Problem, int]:
    # Prefills 2 and 5 on one replica, decodes 1; finishes count, and 10 if call 1 is done after 6. Short first 3 + 8 +
    # 10 = 21, long first 6 + 8 = 14.
    return make_problem([[2], [5]], [[1]] * 2, due=[0, 6], late=[0, 10]), 14


def nobody_may_be_late() -> tuple[Problem, int]:
    # As above but for a cap of none late on top of the plain sum: 14, where 3 + 8 = 11 would do without.
    punctual = _zero_cost(2, due_tick=[99, 6], late_weight=[1, 1])
    return make_problem([[2], [5]], [[1]] * 2, caps=[(punctual, 0)]), 14


def one_may_be_late() -> tuple[Problem, int]:
    # Due at 6 both, at most one late. Prefills 2 and 5, decodes 1: short first, 3 + 8 = 11, has one late.
    punctual = _zero_cost(2, due_tick=[6, 6], late_weight=[1, 1])
    return make_problem([[2], [5]], [[1]] * 2, caps=[(punctual, 1)]), 11


def largest_finish_is_capped() -> tuple[Problem, int]:
    # Prefills 2 and 3 on one replica, decodes 1 and 9. Call 0 first 3 + 14 = 17, but nobody may end after 12: call 1
    # first, 12 + 6 = 18.
    nothing = np.zeros(2, dtype=int)
    last = Objective(np.ones((2, 1), dtype=int), np.zeros((2, 1), dtype=int), nothing, nothing, "max")
    return make_problem([[2], [3]], [[1], [9]], caps=[(last, 12)]), 18


def _zero_cost(num_calls: int, **step: list[int]) -> Objective:
    """A call is a workflow and costs nothing but its step."""
    flat, nothing = np.zeros((num_calls, 1), dtype=int), np.zeros(num_calls, dtype=int)
    return Objective(flat, flat, nothing, nothing, **step)  # type: ignore[arg-type]


EPOCHS: tuple[Epoch, ...] = (
    one_call,
    faster_prefill_is_farther,
    slower_end_decides,
    enforced_pair,
    shortest_prefill_first,
    batch_in_progress,
    kv_capacity_moves_the_second_call,
    kv_wait_is_cheaper_than_moving,
    small_call_overtakes_in_the_gap,
    held_interval_in_the_future,
    held_beyond_capacity,
    locked_call_yields,
    slowest_call_is_the_workflow,
    tails_count,
    late_workflow_first,
    largest_of_two,
    weights_break_ties,
    transfer_rounds_up,
    company_is_slower_than_moving,
    company_is_faster_than_moving,
    third_call_is_one_too_many,
    company_counts_however_far_apart,
    company_holds_its_kv_longer,
    child_waits_for_finish_and_lag,
    prefill_replica_waits_for_a_child,
    late_child_of_two_parents,
    one_long_call_or_two_short_ones_late,
    lateness_beats_the_shorter_sum,
    nobody_may_be_late,
    one_may_be_late,
    largest_finish_is_capped,
)
