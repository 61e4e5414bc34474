"""`hexsolve place`: one decision from a snapshot file, with cost, bound, gap and receipt. Knows words and tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from hexsolve.cli.output import console, json_bytes, write_file

if TYPE_CHECKING:
    from hexsolve.placement import Placement
    from hexsolve.policy import Plan, Policy
    from hexsolve.snapshot_file import SavedSnapshot
    from hexsolve.study.certificate import Certificate

SCHEMA = "hexsolve.place.v1"


@click.command("place")
@click.argument("snapshot")
@click.option("--policy", default="solver", show_default=True, help="See `hexsolve list policies`.")
@click.option("--budget-ms", default=50.0, show_default=True, help="Planning budget of the solver, > 0.")
@click.option("--json", "as_json", is_flag=True, help='Print JSON, schema "hexsolve.place.v1".')
@click.option("--explain", is_flag=True, help="Also print why each call goes where it goes, and the receipt.")
def place_command(snapshot: str, policy: str, budget_ms: float, as_json: bool, explain: bool) -> None:
    """Decide once where the waiting calls of a snapshot file go.

    SNAPSHOT is a file, or the name of a packaged one: `hexsolve place demo`. A file holds a cluster, a time, and the
    events that led there, in order (the README of instances/snapshots lists them):

    \b
    {"schema": "hexsolve.snapshot.v1", "cluster": "demo", "now_ms": 20.0, "events": [
      {"type": "workflow_open", "now_ms": 0.0, "workflow_id": "w1"},
      {"type": "call_ready", "now_ms": 0.0, "workflow_id": "w1", "request_id": "plan",
       "input_tokens": 4000, "predicted_output_tokens": 300},
      {"type": "placed", "now_ms": 0.0, "workflow_id": "w1", "request_id": "plan",
       "prefill": "P0-H100", "decode": "D0-H200"},
      {"type": "prefill_started", "now_ms": 1.0, "workflow_id": "w1", "request_id": "plan",
       "replica": "P0-H100", "expected_end_ms": 420.0},
      ...]}
    """
    from hexsolve.placement import placements
    from hexsolve.snapshot_file import read_snapshot, restore
    from hexsolve.study.certificate import certify

    built = _policy(policy, budget_ms)
    saved = read_snapshot(snapshot)
    engine = restore(saved, built)
    frozen = engine.state.snapshot(saved.now_ms)
    plan = engine.policy.plan(frozen)
    placed = placements(engine.state, plan)
    params, base = (getattr(engine.policy, name, None) for name in ("params", "fallback"))
    certificate = certify(frozen, plan, params, base)
    if as_json:
        write_file("-", json_bytes(_document(policy, saved, plan, placed, certificate)))
    else:
        _show(saved, policy, placed, len(frozen.waiting) - len(placed))
        for line in _summary(plan, certificate):
            click.echo(line)
        if explain:
            _explain(placed, plan)


def _policy(name: str, budget_ms: float) -> "Policy":
    from hexsolve.policies import build_policy
    from hexsolve.policies.solver import SolverPolicy
    from hexsolve.study.run import EngineOptions, known_policies

    budget_ms = EngineOptions(budget_ms=budget_ms).budget_ms
    built = build_policy(known_policies([name])[0])
    return replace(built, budget_ms=budget_ms) if isinstance(built, SolverPolicy) else built


def _show(saved: "SavedSnapshot", policy: str, placed: "Sequence[Placement]", num_left: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{saved.label} at {saved.now_ms:g} ms: {len(placed)} calls placed by {policy}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("#", "workflow", "call", "prefill", "decode", "finish ms", "R"):
        table.add_column(heading, justify="right" if heading in ("#", "finish ms", "R") else "left")
    for position, call in enumerate(placed, start=1):
        known = call.projected_finish_ms < float("inf")
        table.add_row(
            str(position),
            call.workflow_id,
            call.request_id,
            call.prefill or "done",
            call.decode,
            f"{call.projected_finish_ms:.0f}" if known else "–",
            f"{call.projected_ratio:.2f}" if known else "–",
        )
    console().print(table)
    if num_left:
        click.echo(f"{num_left} calls wait that no replica can take now")


def _summary(plan: "Plan", certificate: "Certificate | None") -> list[str]:
    lines = ["finish ms: projected end of decode; R: (that - arrival) / standalone horizon of the workflow"]
    if certificate is not None:
        against = certificate.objective / certificate.greedy if certificate.greedy else 1.0
        lines.append(
            f"cost {certificate.objective:.0f} ({against:.3f} of the greedy plan's {certificate.greedy:.0f}), "
            f"bound {certificate.bound:.0f}, gap {certificate.gap:.1%} over {certificate.calls} calls"
        )
    if plan.receipt:
        receipt = plan.receipt
        status = f", solver status {receipt['status']}, found by {receipt['winner']}" if "status" in receipt else ""
        lines.append(f"outcome: {receipt['outcome']}{status}, {receipt.get('wall_ms', 0.0):.1f} ms")
    return lines


def _explain(placed: "Sequence[Placement]", plan: "Plan") -> None:
    click.echo()
    for position, call in enumerate(placed, start=1):
        click.echo(f"{position}. {call.workflow_id} / {call.request_id}: {call.reason}")
    for key, value in plan.receipt.items():
        if isinstance(value, list):
            click.echo(f"   {key}:")
            for line in value:
                click.echo(f"      {line}")
        else:
            click.echo(f"   {key}: {value:.6g}" if isinstance(value, float) else f"   {key}: {value}")


def _document(
    policy: str,
    saved: "SavedSnapshot",
    plan: "Plan",
    placed: "Sequence[Placement]",
    certificate: "Certificate | None",
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "snapshot": saved.label,
        "cluster": {"name": saved.cluster.name, "sha256": saved.cluster.digest()},
        "now_ms": saved.now_ms,
        "policy": policy,
        "objective": None if certificate is None else certificate.objective,
        "greedy_objective": None if certificate is None else certificate.greedy,
        "bound": None if certificate is None else certificate.bound,
        "gap": None if certificate is None else certificate.gap,
        "status": plan.receipt.get("status"),
        "outcome": plan.receipt.get("outcome"),
        "receipt": plan.receipt,
        "placements": [
            {
                "workflow_id": call.workflow_id,
                "request_id": call.request_id,
                "prefill": call.prefill,
                "decode": call.decode,
                "position": position,
                "projected_finish_ms": call.projected_finish_ms,
                "projected_ratio": call.projected_ratio,
                "reason": call.reason,
            }
            for position, call in enumerate(placed, start=1)
        ],
    }
