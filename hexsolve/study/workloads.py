"""The workload of a study: a name or a file, how many workflows, and when they arrive. Knows no engine and no policy.

Rules for files (DESIGN §6: no public source joins real arrivals with real DAGs):

* With a rate, a load or a burst the workflows are re-timed. They are drawn from the file in whole passes, each pass in
  an order of its own that depends on the seed, so a study may be longer than the file: every workflow comes equally
  often (once more or less). Workflows of the second pass are called ``<id>#2``, and so on.
* Without, the file's own arrivals are kept and the first workflows are taken; there can be no more than the file has.
* A file without arrivals (all at 0) must be re-timed.
"""

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np

from hexsolve.arrivals import AllAtOnce, Arrivals, GammaGaps, Poisson, with_arrivals
from hexsolve.cluster import BLOCK_TOKENS, Cluster
from hexsolve.datafile import nearest
from hexsolve.errors import InputError
from hexsolve.generate import NAMES, default_arrivals, generate
from hexsolve.io import read_workload
from hexsolve.load import rate_for
from hexsolve.sim import SimOptions
from hexsolve.sim.diagnose import check_input
from hexsolve.workflow import Workflow, Workload

_DRAW_KEY = 0xD2A3  # keeps the order of a file's workflows apart from the arrivals of the same seed


@dataclass(frozen=True)
class ArrivalChoice:
    """An arrival process whose rate is still open: ``poisson``, ``bursty`` with `cv`, or ``burst`` (all at once)."""

    kind: Literal["poisson", "bursty", "burst"] = "poisson"
    cv: float = 1.0

    def at(self, rate_per_s: float) -> Arrivals:
        """The process at a rate in workflows per second."""
        if self.kind == "burst":
            return AllAtOnce()
        return Poisson(rate_per_s) if self.kind == "poisson" else GammaGaps(rate_per_s, self.cv)


def parse_arrivals(text: str) -> ArrivalChoice:
    """``poisson``, ``bursty:CV`` or ``burst``.

    Raises
    ------
    InputError
        If it is none of these, or CV is not a number > 0.
    """
    name, _, argument = text.partition(":")
    if name == "bursty" and argument:
        return ArrivalChoice("bursty", _positive(argument, f"arrivals {text!r}: CV"))
    if text == "poisson":
        return ArrivalChoice("poisson")
    if text == "burst":
        return ArrivalChoice("burst")
    raise InputError(f"arrivals: expected poisson, bursty:CV or burst, got {text!r}")


def build_workload(
    source: str,
    num_workflows: int | None,
    seed: int,
    *,
    cluster: Cluster,
    arrivals: ArrivalChoice | None = None,
    rate_per_s: float | None = None,
    load: float | None = None,
) -> Workload:
    """A shipped workload by name or a file by path, with its arrivals.

    Parameters
    ----------
    num_workflows : int or None
        At least 1; None is 100 for a name and the whole file for a file.
    arrivals : the process; None is Poisson, or the file's own arrivals where no rate or load is given.
    rate_per_s : workflows per second, > 0; load : utilisation of the bottleneck pool of `cluster`, > 0; one at most.

    Raises
    ------
    InputError
        If the source is not there or not right, a number is out of range, or the arrivals are left open.
    """
    _check_numbers(num_workflows, rate_per_s, load)
    if source in NAMES:
        shape = generate(source, 100 if num_workflows is None else num_workflows, seed, AllAtOnce())
        own_rate = default_arrivals(source).rate_per_s
    elif Path(source).exists() or Path(source).suffix:
        shape, own_rate = read_workload(source), None
    else:
        raise InputError(f"workload {source!r}: no such name or file; {nearest(source, NAMES)}")
    retimed = arrivals is not None or rate_per_s is not None or load is not None
    if own_rate is None:
        shape = _drawn(shape, num_workflows, seed) if retimed else _as_recorded(shape, num_workflows)
        if not retimed:
            return shape
    choice = arrivals or ArrivalChoice()
    if choice.kind == "burst":
        return with_arrivals(shape, AllAtOnce(), seed)
    if load is not None:
        check_fits(cluster, shape, SimOptions())
        rate_per_s = rate_for(shape, cluster, load)
    rate = rate_per_s or own_rate
    if rate is None:
        raise InputError(f"workload {source!r}: arrivals need a rate or a load (--rate or --load), got neither")
    return with_arrivals(shape, choice.at(rate), seed)


def check_fits(cluster: Cluster, workload: Workload, options: SimOptions) -> None:
    """Refuse, before anything runs, a call that fits no decode replica and a fault of a replica that is not there."""
    most_blocks = max(replica.kv_capacity_blocks for replica in cluster.decode)
    check_input(cluster, workload, options, most_blocks * BLOCK_TOKENS)


def _check_numbers(num_workflows: int | None, rate_per_s: float | None, load: float | None) -> None:
    if num_workflows is not None and num_workflows < 1:
        raise InputError(f"workflows = {num_workflows}: expected an integer >= 1")
    if rate_per_s is not None and load is not None:
        raise InputError(f"rate = {rate_per_s:g} and load = {load:g}: expected one of the two")
    for name, value in (("rate", rate_per_s), ("load", load)):
        if value is not None and not 0 < value < inf:
            raise InputError(f"{name} = {value}: expected a finite number > 0")


def _as_recorded(recorded: Workload, num_workflows: int | None) -> Workload:
    """The first workflows at their own times."""
    flows = recorded.workflows
    num = len(flows) if num_workflows is None else num_workflows
    if num > len(flows):
        raise InputError(
            f"workflows = {num}: expected at most {len(flows)} (as many as {recorded.name!r} has), "
            "or a rate or load to draw them anew (--rate or --load)"
        )
    if len(flows) > 1 and flows[-1].arrival_ms == 0.0:
        raise InputError(
            f"workload {recorded.name!r}: records no arrivals: expected --rate, --load or --arrivals burst"
        )
    return Workload(recorded.name, flows[:num])


def _drawn(recorded: Workload, num_workflows: int | None, seed: int) -> Workload:
    """Whole passes through the file, each in an order of its own; all arrive at 0."""
    flows = recorded.workflows
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_DRAW_KEY,)))
    drawn: list[Workflow] = []
    turn = 0
    while len(drawn) < (num_workflows or len(flows)):
        turn += 1
        drawn += [_again(flows[position], turn) for position in rng.permutation(len(flows))]
    return Workload(recorded.name, tuple(drawn[: num_workflows or len(flows)]))


def _again(workflow: Workflow, turn: int) -> Workflow:
    name = workflow.workflow_id if turn == 1 else f"{workflow.workflow_id}#{turn}"
    return replace(workflow, workflow_id=name, arrival_ms=0.0)


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: expected a number, got {text!r}") from None
    if not 0 < value < inf:
        raise InputError(f"{where}: expected a finite number > 0, got {text!r}")
    return value
