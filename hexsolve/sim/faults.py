"""Replicas that go down and come back. Knows which calls are hit in which stage; knows nothing of why."""

from typing import TYPE_CHECKING

from hexsolve.sim.calls import CallRun
from hexsolve.sim.decode import DecodeServer
from hexsolve.sim.options import Fault
from hexsolve.sim.prefill import PrefillServer
from hexsolve.tables import PREFILL, TRANSFER

if TYPE_CHECKING:
    from hexsolve.sim.simulator import Simulator


def apply_fault(now_ms: float, arg: tuple["Simulator", Fault]) -> None:
    """Event handler: take a replica down, or up again; nothing happens if it is so already."""
    simulator, fault = arg
    server = (simulator.prefill if fault.role == "prefill" else simulator.decode)[fault.index]
    if server.up == (fault.change == "up"):
        return
    if fault.change == "up":
        server.up = True
        simulator.state.replica_up(now_ms, fault.role, fault.index)
        simulator.dispatcher.wake(server)
    else:
        if isinstance(server, PrefillServer):
            lost = _prefill_down(simulator, server)
        else:
            lost = _decode_down(simulator, server, now_ms)
        simulator.state.replica_down(now_ms, fault.role, fault.index)
        for run in lost:
            _lose(simulator, now_ms, run)
    if simulator.dispatcher.needs["replica_" + fault.change]:
        simulator.dispatcher.decision_due = True


def _prefill_down(simulator: "Simulator", server: PrefillServer) -> list[CallRun]:
    """Calls that wait here wait in no queue; calls in prefill or in transfer from here are lost."""
    for run in server.queue.take_all():
        run.prefill = -1
        simulator.dispatcher.unplaced[run.serial] = run
    return server.fail() + [run for run in _in_stage(simulator, TRANSFER) if run.prefill == server.index]


def _decode_down(simulator: "Simulator", server: DecodeServer, now_ms: float) -> list[CallRun]:
    """Calls whose KV is here, on its way here or bound for here are lost."""
    held = server.fail(now_ms) + server.queue.take_all()
    return held + [run for run in _in_stage(simulator, PREFILL, TRANSFER) if run.decode == server.index]


def _in_stage(simulator: "Simulator", *stages: int) -> list[CallRun]:
    runs = simulator.dispatcher.by_slot.values()
    return sorted((run for run in runs if run.stage in stages), key=lambda run: run.serial)


def _lose(simulator: "Simulator", now_ms: float, run: CallRun) -> None:
    """The call begins anew with the output it has as part of its prompt."""
    simulator.counters.losses += 1
    if run.flow is not None:
        simulator.network.abort(now_ms, run.flow)
        run.flow = None
    if run.stage == PREFILL:
        simulator.prefill[run.prefill].forget(run)
    run.predicted = min(max(run.predicted, run.generated + 1), simulator.most_tokens - run.call.input_tokens)
    simulator.requeue(now_ms, run)
