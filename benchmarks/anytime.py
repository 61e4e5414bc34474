"""Every method on recorded epochs at every budget: rows of figures, one line of JSON each.

Knows what is measured and in which order; knows nothing of how rows become tables (`anytime_tables`). One unit of work
is an epoch at a budget: all methods one after the other, starting with another one each time, so that a slow minute of
the machine hits all alike. Units go round the sets (waiting calls × replicas) and take one more epoch of each every
round, so that a run that is cut short has seen them all.
"""

import argparse
import gc
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.epochs import REPLICAS, SIZES, Epoch, recorded, sizes_of, sources
from benchmarks.methods import GREEDY, PLAIN, PLAIN_BUDGET_MS, PORTFOLIO, Answer, methods, plain_cpsat
from hexsolve.epoch import EpochParams, to_problem
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policies.solver import SolverPolicy
from hexsolve.snapshot import Snapshot
from hexsolve.solve import warm_up
from hexsolve.tables import Ints
from hexsolve.workers import WorkerPool
from hexsolve_models import Decision, Problem, cost
from hexsolve_models.bounds import lower_bound

BUDGETS_MS = (5.0, 20.0, 50.0, 200.0, 1000.0, 5000.0)
REPORTING_SEED = 1000  # the first; tuning uses seeds below 100
ROWS_FILE = Path(__file__).resolve().parent.parent / "build" / "anytime.jsonl"

_PAUSE_S = 0.01  # epochs of a service do not follow one another without a pause
_DECISIONS = 3  # whole decisions per unit up to `_OFTEN_MS`, one beyond
_OFTEN_MS = 50.0
_START_S = 30.0  # for workers to load their solvers


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one epoch at one budget.

    Attributes
    ----------
    epoch : name; source, replicas, seed, waiting, moment : its parts.
    calls, workflows, held : size of the epoch problem.
    method : "greedy" has no budget (0), "plain CP-SAT" its own.
    cost, bound, status, wall_ms, build_ms, winner, trace, work : see `Answer`.
    greedy : cost of the greedy decision in this problem.
    decision_ms : wall times of whole decisions, snapshot to plan; empty where they are not measured.
    outcome, gain : of the last of these: the policy's outcome, and 1 - projected / projected greedy if it was adopted.
    """

    epoch: str
    source: str
    replicas: int
    seed: int
    waiting: int
    moment: int
    calls: int
    workflows: int
    held: int
    budget_ms: float
    method: str
    cost: float
    bound: float
    status: str
    wall_ms: float
    build_ms: float
    winner: str
    trace: tuple[tuple[float, str, float, float], ...]
    work: float
    greedy: float
    decision_ms: tuple[float, ...] = ()
    outcome: str = ""
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes
    ----------
    seeds : of the recordings; waiting, replicas : the sets; only : methods (None: all).
    epochs : most epochs of a set.
    cap_s : no unit starts later.
    """

    seeds: Sequence[int] = (REPORTING_SEED,)
    waiting: Sequence[int] = SIZES
    replicas: Sequence[int] = REPLICAS
    budgets_ms: Sequence[float] = BUDGETS_MS
    only: Sequence[str] | None = None
    epochs: int = 12
    cap_s: float = 3600.0


def epochs_of(plan: Plan) -> Iterator[Epoch]:
    """Round by round one epoch of every set, sources in turn."""
    by_set: dict[tuple[int, int], list[Epoch]] = {}
    for replicas in plan.replicas:
        runs = [recorded(source, replicas, seed) for seed in plan.seeds for source in sources()]
        for size in sizes_of(replicas):
            mine = [epoch for run in runs for epoch in run if epoch.waiting == size]
            by_set[size, replicas] = sorted(mine, key=lambda epoch: epoch.moment)
    chosen = [by_set[key][: plan.epochs] for key in sorted(by_set) if key[0] in plan.waiting]
    for turn in zip_longest(*chosen):
        yield from (epoch for epoch in turn if epoch is not None)


@dataclass(frozen=True, eq=False)
class Scene:
    """An epoch as every method sees it; call i of the problem is `snapshot.waiting[positions[i]]`."""

    epoch: Epoch
    snapshot: Snapshot
    problem: Problem
    positions: Ints
    hint: Decision
    greedy_ms: float

    @staticmethod
    def of(epoch: Epoch) -> "Scene":
        """Read the snapshot, plan greedily, translate the whole queue."""
        snapshot = epoch.snapshot()
        HexAgent().plan(snapshot)
        started = time.perf_counter()
        greedy = HexAgent().plan(snapshot)
        greedy_ms = 1e3 * (time.perf_counter() - started)
        translated = to_problem(snapshot, greedy, EpochParams())
        if translated is None:
            raise ValueError(f"{epoch.name}: expected calls that can be placed, got none")
        problem, index = translated
        hint = index.decision_of(problem, greedy)
        return Scene(epoch, snapshot, problem, index.positions, hint, greedy_ms)

    @property
    def greedy(self) -> float:
        """Cost of the greedy decision."""
        return float(cost(self.problem, self.hint))

    def row(self, method: str, budget_ms: float, answer: Answer, **more: Any) -> Row:
        """The answer with the epoch's particulars."""
        epoch, problem = self.epoch, self.problem
        return Row(
            epoch=epoch.name,
            source=epoch.source,
            replicas=epoch.replicas,
            seed=epoch.seed,
            waiting=epoch.waiting,
            moment=epoch.moment,
            calls=problem.num_calls,
            workflows=problem.num_workflows,
            held=len(problem.held_decode),
            budget_ms=budget_ms,
            method=method,
            cost=answer.cost,
            bound=answer.bound,
            status=answer.status,
            wall_ms=answer.wall_ms,
            build_ms=answer.build_ms,
            winner=answer.winner,
            trace=answer.trace,
            work=answer.work,
            greedy=self.greedy,
            **more,
        )

    def fixed(self, *, plain: bool) -> Iterator[Row]:
        """The methods without a budget of the ladder: greedy, and plain CP-SAT if wanted."""
        bound = float(lower_bound(self.problem))
        yield self.row(GREEDY, 0.0, Answer(self.greedy, bound, "FEASIBLE", self.greedy_ms, winner=GREEDY))
        if plain:
            yield self.row(PLAIN, PLAIN_BUDGET_MS, plain_cpsat(self.problem))

    def unit(self, budget_ms: float, bench: "Bench", turn: int) -> Iterator[Row]:
        """All methods at one budget, beginning with number `turn`."""
        names = list(bench.methods)
        shift = turn % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            time.sleep(_PAUSE_S)
            answer = bench.methods[name](self.problem, self.hint, budget_ms)
            more = self.decisions(bench.policy(budget_ms, self.snapshot)) if name == PORTFOLIO else {}
            yield self.row(name, budget_ms, answer, **more)

    def decisions(self, policy: SolverPolicy) -> dict[str, Any]:
        """Whole decisions, snapshot to plan, each without an earlier plan to start from."""
        walls = []
        for _ in range(_DECISIONS if policy.budget_ms <= _OFTEN_MS else 1):
            time.sleep(_PAUSE_S)
            started = time.perf_counter()
            policy._last = None  # it would start from its own answer to this very epoch
            receipt = policy.plan(self.snapshot).receipt
            walls.append(1e3 * (time.perf_counter() - started))
        adopted = receipt["outcome"].startswith("better")
        gain = 1.0 - receipt["projected"] / receipt["projected_greedy"] if adopted else 0.0
        return {"decision_ms": tuple(walls), "outcome": receipt["outcome"], "gain": gain}


class Bench:
    """What lives as long as a run: a warm worker pool, a warm policy per budget."""

    def __init__(self, only: Sequence[str] | None) -> None:
        warm_up()
        self._pool = WorkerPool(1, warm_up="hexsolve.components:warm_up_natives")
        self._pool.wait(_START_S)
        self._policies: dict[float, SolverPolicy] = {}
        self.methods = {name: method for name, method in methods(self._pool).items() if only is None or name in only}

    def policy(self, budget_ms: float, rehearsal: Snapshot) -> SolverPolicy:
        """The policy of this budget, its workers up; its first plan is made for nothing."""
        if budget_ms not in self._policies:
            self._policies[budget_ms] = SolverPolicy(budget_ms=budget_ms)
            self._policies[budget_ms].warm_up()
            self._policies[budget_ms].plan(rehearsal)
        return self._policies[budget_ms]

    def rehearse(self, scene: "Scene") -> None:
        """Let every method answer once for nothing: it may load or compile something yet."""
        for method in self.methods.values():
            method(scene.problem, scene.hint, _OFTEN_MS)

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
        for policy in self._policies.values():
            policy.close()


def measure(plan: Plan, path: Path, *, epochs: Iterable[Epoch] | None = None) -> list[Row]:
    """Run the plan on its own or the given epochs; every row is in `path` as soon as it is there."""
    started = time.monotonic()
    rows: list[Row] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(plan.only)
    with closing(bench), path.open("w", encoding="utf-8") as file:
        for row in _rows(plan, bench, epochs_of(plan) if epochs is None else epochs, started):
            rows.append(row)
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
    return rows


def _rows(plan: Plan, bench: Bench, epochs: Iterable[Epoch], started: float) -> Iterator[Row]:
    turn = 0
    for position, epoch in enumerate(epochs):
        scene = Scene.of(epoch)
        if position == 0:
            bench.rehearse(scene)
        gc.collect()
        yield from scene.fixed(plain=plan.only is None or PLAIN in plan.only)
        for budget_ms in plan.budgets_ms:
            if time.monotonic() - started > plan.cap_s:
                return
            yield from scene.unit(budget_ms, bench, turn)
            turn += 1


def read_rows(path: Path) -> list[Row]:
    """Rows of an earlier run."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [
        Row(**{**row, "trace": tuple(map(tuple, row["trace"])), "decision_ms": tuple(row["decision_ms"])})
        for row in rows
    ]


def main() -> None:
    """Measure recorded epochs and print the tables."""
    from benchmarks import anytime_tables

    default = Plan()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anytime", description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=default.seeds, help="below 100: tuning")
    parser.add_argument("--waiting", type=int, nargs="+", default=default.waiting, help="calls that wait")
    parser.add_argument("--replicas", type=int, nargs="+", default=default.replicas, help="per pool")
    parser.add_argument("--budgets", type=float, nargs="+", default=default.budgets_ms, help="in ms")
    parser.add_argument("--methods", nargs="+", help=f"default: all; {PLAIN!r} is one of them")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="most of a set")
    parser.add_argument("--cap-min", type=float, default=default.cap_s / 60, help="start nothing after so many minutes")
    parser.add_argument("--out", type=Path, default=ROWS_FILE, help="rows, a line of JSON each")
    given = parser.parse_args()
    sets = given.seeds, given.waiting, given.replicas, given.budgets
    measure(Plan(*sets, only=given.methods, epochs=given.epochs, cap_s=60 * given.cap_min), given.out)
    anytime_tables.print_tables(read_rows(given.out))


if __name__ == "__main__":
    main()
