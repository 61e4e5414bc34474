"""CP-SAT on the most urgent calls, the others list-scheduled behind them: as many calls as the time is good for."""

from hexsolve.backends.outcome import Limits
from hexsolve.components._formulated import solve_formulated
from hexsolve.components.cpsat_full import reserve_ms, run_model
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem

IS_NATIVE = True
# (limit in ms, choices of replicas) with the largest gains on recorded epochs of 32 calls (RESULTS.md, epoch_solver).
_WINDOWS = ((10.0, 48), (20.0, 64), (50.0, 96), (200.0, 128), (1000.0, 256), (5000.0, 512))


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    if hint is None:
        return Proposal(detail="a window needs a decision to start from")
    return solve_formulated(
        problem, hint, limits, "cpsat_window", run_model, reserve_ms, size=window_size(problem, limits.wall_ms)
    )


def window_size(problem: Problem, wall_ms: float | None) -> int:
    """Calls in the window, >= 1."""
    ms = _WINDOWS[-1][0] if wall_ms is None else wall_ms
    literals = max((literals for from_ms, literals in _WINDOWS if from_ms <= ms), default=_WINDOWS[0][1])
    return max(1, literals // (problem.num_prefill + problem.num_decode))
