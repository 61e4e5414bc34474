"""Which components run at which size and budget, and for how long. Data and a look-up; knows no component.

Chosen by measurement (benchmarks/RESULTS.md); docs/solver.md says why each row is as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from hexsolve import components
from hexsolve.components import LOCAL_SEARCH


@dataclass(frozen=True, slots=True)
class Step:
    """A component and the share of the time left that it may use, 0..1.

    beside : only where a worker can run it, next to a local search that takes all its time whatever it answers.
    if_kv_is_ample : only while no call waits for KV in the best decision so far.
    """

    component: str
    share: float = 1.0
    beside: bool = False
    if_kv_is_ample: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The steps for problems of up to `max_calls` calls, from `min_budget_ms` on."""

    max_calls: float
    min_budget_ms: float
    steps: tuple[Step, ...]


_SHORT_MS = 12.0
# The relaxation proves what CP-SAT cannot, but does not know that calls wait for one another's KV.
_PROOF = (Step("relaxation", if_kv_is_ample=True), Step("cpsat_full"))
PORTFOLIO = (
    Row(8, 40.0, (Step(LOCAL_SEARCH, 0.15), *_PROOF)),
    Row(8, 15.0, (Step(LOCAL_SEARCH, 0.3), *_PROOF)),
    Row(16, 100.0, (Step(LOCAL_SEARCH, 0.3), *_PROOF)),
    Row(24, 1000.0, (Step(LOCAL_SEARCH, 0.5), *_PROOF)),
    Row(96, 100.0, (Step(LOCAL_SEARCH, 0.3), Step("relaxation", beside=True), Step(LOCAL_SEARCH))),
    Row(96, _SHORT_MS, (Step(LOCAL_SEARCH),)),
    Row(inf, _SHORT_MS, (Step("list_orders"), Step(LOCAL_SEARCH))),
)
_SHORT = (Step(LOCAL_SEARCH, 0.8),)  # the rest is for the bound


def steps_for(num_calls: int, budget_ms: float | None) -> tuple[Step, ...]:
    """Steps in order. Without a wall-clock budget (None) the ones of the largest."""
    for row in PORTFOLIO:
        if num_calls <= row.max_calls and (budget_ms is None or budget_ms >= row.min_budget_ms):
            return row.steps
    return _SHORT


def may_use_workers(budget_ms: float, steps: Sequence[Step | str] | None) -> bool:
    """Whether any problem has a native step at this budget: below that no worker process is worth having."""
    if steps is None:
        chosen = [step for row in PORTFOLIO if budget_ms >= row.min_budget_ms for step in row.steps]
    else:
        chosen = [Step(step) if isinstance(step, str) else step for step in steps]
    return any(components.load(step.component).IS_NATIVE for step in chosen)
