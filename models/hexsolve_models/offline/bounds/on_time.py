"""How many workflows can be on time: a linear programme over windows of time. Knows demands; knows no search.

    max  sum_w z_w   with   sum_w E_w(window) z_w <= capacity(window)  for every window and pool,   0 <= z_w <= 1,

E_w the least that workflow w takes inside the window when it is on time (models/README.md, "Bounds of a whole
instance"). Windows are added while some are overloaded by the present z.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog

from hexsolve_models.objective import Ints
from hexsolve_models.offline.bounds.certificate import at_most
from hexsolve_models.offline.bounds.pools import Bools, Demand, Floats, PoolName, prices
from hexsolve_models.offline.bounds.results import Window
from hexsolve_models.offline.bounds.separation import Span, overloaded

_ROUNDS = 60
_USED = 1e-7


@dataclass(frozen=True, eq=False)
class OnTime:
    """At most `count` workflows; `share` [W] is the z of the last linear programme."""

    count: Fraction
    share: Floats
    windows: tuple[Window, ...]


class _Cuts:
    """The rows so far: window, demand it belongs to, factors E / capacity [W]."""

    def __init__(self, workflow: Ints, num_workflows: int) -> None:
        self._workflow, self._num_workflows = workflow, num_workflows
        self._known: set[tuple[str, int, int, bytes]] = set()
        self.spans: list[tuple[Demand, Span]] = []
        self.factors = np.zeros((0, num_workflows))

    def add(self, asked: Demand, span: Span) -> bool:
        """False if it is there already."""
        key = asked.pool.name, span.first, span.last, span.prices.tobytes()
        if key in self._known:
            return False
        self._known.add(key)
        taken = asked.within(span.first, span.last, span.prices)
        room = float((span.prices * asked.pool.capacity).sum()) * (span.last - span.first)
        by_workflow = np.bincount(self._workflow, weights=taken, minlength=self._num_workflows)
        self.spans.append((asked, span))
        self.factors = np.vstack([self.factors, by_workflow / room])
        return True


def most_on_time(demands: list[Demand], workflow: Ints, possible: Bools, enough: int | None = None) -> OnTime:
    """Upper bound on the number of workflows on time.

    Parameters
    ----------
    workflow : [N]; possible : [W] workflows that can be on time alone.
    enough : stop as soon as the bound is proved to be below this number.
    """
    cuts = _Cuts(workflow, possible.size)
    share = possible.astype(np.float64)
    count = Fraction(int(possible.sum()))
    multipliers = np.zeros(0)
    priced = {asked.pool.name: prices(asked, share[workflow]) for asked in demands}
    sharpened = False
    for _ in range(_ROUNDS):
        if enough is not None and count < enough:
            break
        weight = share[workflow]
        active = [cuts.spans[k] for k in np.flatnonzero(multipliers > _USED)] if sharpened else []
        found = [(asked, span) for asked in demands for span in _violated(asked, weight, priced, active)]
        added = [cuts.add(*cut) for cut in found]
        if not any(added):
            if sharpened or not cuts.spans:
                break
            sharpened = True
            continue
        share, multipliers = _solve(cuts.factors, possible)
        count = min(count, at_most(possible, cuts.factors, multipliers))
    return OnTime(count, share, _windows(cuts, multipliers, possible))


def _violated(
    asked: Demand, weight: Floats, priced: dict[PoolName, Floats], active: list[tuple[Demand, Span]]
) -> list[Span]:
    """Overloaded windows; near windows that matter the grid is finer and prices are made for what is inside."""
    here = [span for other, span in active if other is asked]
    found = overloaded(asked, weight, priced[asked.pool.name], here)
    for span in here:
        inside = weight * (asked.within(span.first, span.last, span.prices) > 0)
        own = prices(asked, inside)
        room = float((own * asked.pool.capacity).sum()) * (span.last - span.first)
        if float((asked.within(span.first, span.last, own) * weight).sum()) > room * (1 + 1e-6):
            found.append(Span(span.first, span.last, own))
    return found


def _solve(factors: Floats, possible: Bools) -> tuple[Floats, Floats]:
    """Optimal z [W] and multipliers [K] of the cuts."""
    result = linprog(
        -np.ones(possible.size),
        A_ub=factors,
        b_ub=np.ones(len(factors)),
        bounds=[(0.0, float(can)) for can in possible.tolist()],
        method="highs",
    )
    if result.x is None:
        raise RuntimeError(f"z = 0 is always feasible, but the solver says: {result.message}")
    return np.clip(result.x, 0.0, 1.0), np.maximum(-result.ineqlin.marginals, 0.0)


def _windows(cuts: _Cuts, multipliers: Floats, possible: Bools) -> tuple[Window, ...]:
    total = float(multipliers.sum())
    heavy = [k for k in np.argsort(-multipliers, kind="stable").tolist() if multipliers[k] > _USED]
    return tuple(
        Window(
            resource=cuts.spans[k][0].pool.name,
            start=cuts.spans[k][1].first,
            end=cuts.spans[k][1].last,
            load=float(cuts.factors[k, possible].sum()),
            weight=float(multipliers[k]) / total,
        )
        for k in heavy
    )
