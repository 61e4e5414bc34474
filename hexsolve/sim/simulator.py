"""A workload on a cluster under an engine, event by event. Knows how calls live; knows nothing of how they are placed.

The engine is driven through the events of `ClusterState` and asked for placements exactly as a serving system would
(DESIGN §2): it cannot see the true output lengths or the part of a workflow that is not revealed. After all events of
an instant the engine decides, if an event of that instant calls for it; then idle servers start work.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hexsolve.cluster import BLOCK_TOKENS, Cluster
from hexsolve.predict import Predictor
from hexsolve.sim.calls import DONE, CallRun, RankQueue, WorkflowRun
from hexsolve.sim.decode import DecodeServer
from hexsolve.sim.diagnose import check_input, describe_stuck, name_of
from hexsolve.sim.dispatcher import Dispatcher
from hexsolve.sim.faults import apply_fault
from hexsolve.sim.kernel import FAULT, REVEAL, Kernel, SimulationError
from hexsolve.sim.network import BYTES_PER_MS_PER_GB_S, Network
from hexsolve.sim.options import SimOptions
from hexsolve.sim.ports import EnginePort
from hexsolve.sim.prefill import PrefillServer
from hexsolve.sim.prefix_cache import PrefixCache
from hexsolve.sim.records import Counters, Event, SimulationResult
from hexsolve.tables import DECODE, PREFILL, TRANSFER, WAIT_DECODE, WAIT_PREFILL
from hexsolve.workflow import Workload


class Simulator:
    """One run; `run` may be called once."""

    def __init__(
        self,
        cluster: Cluster,
        workload: Workload,
        engine: EnginePort,
        predictor: Predictor,
        prefix_reuse: bool,
        options: SimOptions,
        declared: Mapping[str, Sequence[Any]],
    ) -> None:
        self.cluster, self.workload, self.predictor, self.options = cluster, workload, predictor, options
        self.most_tokens = max(replica.kv_capacity_blocks for replica in cluster.decode) * BLOCK_TOKENS
        check_input(cluster, workload, options, self.most_tokens)
        self.state = engine.state
        self.kernel = Kernel()
        self.counters = Counters()
        self.events: list[Event] = []
        self._log = self.events.append if options.record_events else None
        self._num_revealed = 0
        self._declared = declared
        self._finish_ms = [0.0] * len(workload.workflows)
        self._open: dict[int, WorkflowRun] = {}
        self._rows: list[tuple[int | float, ...]] = []
        reusable = prefix_reuse and any(call.cached_prefix_tokens for w in workload.workflows for call in w.calls)
        self.dispatcher = Dispatcher(self.kernel, engine, self.counters)
        self._needs = self.dispatcher.needs
        self.prefill = [self._prefill_server(index, reusable) for index in range(cluster.num_prefill)]
        self.decode = [self._decode_server(index) for index in range(cluster.num_decode)]
        self.dispatcher.prefill, self.dispatcher.decode = self.prefill, self.decode
        self.network = self._network()

    def _prefill_server(self, index: int, reusable: bool) -> PrefillServer:
        replica = self.cluster.prefill[index]
        return PrefillServer(
            index,
            replica,
            self.kernel,
            RankQueue(self.dispatcher.ranks),
            PrefixCache(replica.kv_capacity_tokens) if reusable else None,
            self.options.chunk_tokens,
            bind=self._bind,
            started=self._prefill_started,
            batch_started=self.state.prefill_batch,
            finished=self._prefill_done,
            wake=self.dispatcher.wake,
        )

    def _decode_server(self, index: int) -> DecodeServer:
        replica = self.cluster.decode[index]
        load_ms = replica.profile.kv_bytes_per_token / (self.options.host_bandwidth_gb_s * BYTES_PER_MS_PER_GB_S)
        return DecodeServer(
            index,
            replica,
            self.kernel,
            RankQueue(self.dispatcher.ranks),
            self.dispatcher.ranks,
            self.options.growth_tokens,
            load_ms if self.options.pushback == "reload" else None,
            joined=self._decode_started,
            finished=self._call_done,
            grown=self._grown,
            recompute=self._pushed_back,
            refine=self._refine,
            wake=self.dispatcher.wake,
        )

    def _network(self) -> Network:
        cluster = self.cluster
        row, column = ({r.name: i for i, r in enumerate(pool)} for pool in (cluster.prefill, cluster.decode))
        return Network(
            self.kernel,
            [replica.bandwidth_gb_s for replica in cluster.prefill],
            [replica.bandwidth_gb_s for replica in cluster.decode],
            {(row[p], column[d]): gb_s for (p, d), gb_s in cluster.links.items()},
            deliver=self._transfer_done,
        )

    def run(self) -> SimulationResult:
        """Simulate until the last workflow is finished."""
        for fault in self.options.faults:
            self.kernel.at(fault.time_ms, FAULT, apply_fault, (self, fault))
        if self.workload.workflows:
            self.kernel.at(self.workload.workflows[0].arrival_ms, REVEAL, self._on_arrival, 0)
            self.dispatcher.num_left = len(self.workload.workflows)
            self.dispatcher.plan_wake_up()
            self.kernel.run(self.dispatcher.settle)
        if self.dispatcher.num_left:
            raise SimulationError(describe_stuck(self.kernel.now_ms, self._open.values(), self.decode))
        return self._result()

    # -- what happens to calls ---------------------------------------------------------------------------------------

    def _on_arrival(self, now_ms: float, index: int) -> None:
        workflows = self.workload.workflows
        workflow = workflows[index]
        slot = self.state.workflow_open(now_ms, workflow.workflow_id, workflow.workflow_class, workflow.arrival_ms)
        if workflow.workflow_id in self._declared:
            self.state.workflow_declared(now_ms, slot, self._declared[workflow.workflow_id])
        opened = self._open[index] = WorkflowRun(workflow, index, slot)
        self._note("workflow_open", now_ms, opened)
        for run in opened.runs:
            if not run.pending:
                self._reveal_later(now_ms, run)
        if index + 1 < len(workflows):
            self.kernel.at(workflows[index + 1].arrival_ms, REVEAL, self._on_arrival, index + 1)

    def _reveal_later(self, now_ms: float, run: CallRun) -> None:
        if run.call.delay_ms > 0.0:
            self.kernel.at(now_ms + run.call.delay_ms, REVEAL, self._reveal, run)
        else:
            self._reveal(now_ms, run)

    def _reveal(self, now_ms: float, run: CallRun) -> None:
        call = run.call
        self._num_revealed += 1
        run.serial = self._num_revealed
        run.predicted = max(1, min(self.predictor.predict(run.view), self.most_tokens - call.input_tokens))
        run.slot = self.state.call_ready(
            now_ms,
            run.workflow.slot,
            call.request_id,
            input_tokens=call.input_tokens,
            predicted_output_tokens=run.predicted,
            dependencies=call.dependencies,
            kind=call.kind,
            cached_prefix_tokens=call.cached_prefix_tokens,
            prefix_group=call.prefix_group,
        )
        if run.slot < 0:
            raise SimulationError(f"{name_of(run)} was refused by the engine at {now_ms} ms")
        run.ready_ms = now_ms
        self.dispatcher.by_slot[run.slot] = run
        self._wait_for_prefill("call_ready", now_ms, run)

    def _wait_for_prefill(self, kind: str, now_ms: float, run: CallRun) -> None:
        run.stage = WAIT_PREFILL
        run.prefill = run.decode = -1
        self.dispatcher.unplaced[run.serial] = run
        self._note(kind, now_ms, run)

    def _bind(self, run: CallRun) -> bool:
        """Fix the decode replica the engine chose; False if it chose none that is up."""
        decode = int(self.state.decode[run.slot])
        if decode < 0 or not self.decode[decode].up:
            return False
        run.decode = decode
        return True

    def _prefill_started(self, now_ms: float, run: CallRun) -> None:
        run.stage = PREFILL
        run.prefill_start_ms = now_ms
        run.attempt += 1
        if run.cached:
            self.counters.prefix_hits += 1
            self.counters.prefix_hit_tokens += run.cached
        if run.attempt == 1 and now_ms > run.ready_ms:
            self.counters.prefill_waits += 1
        self.state.prefill_started(now_ms, run.slot, run.prefill, run.cached)
        self._note("prefill_started", now_ms, run, run.prefill)

    def _prefill_done(self, now_ms: float, run: CallRun) -> None:
        run.stage = TRANSFER
        run.prefill_end_ms = now_ms
        self.state.prefill_done(now_ms, run.slot)
        self._note("prefill_done", now_ms, run, run.prefill)
        self._hold_prefix(run)
        self.counters.transfers += 1
        source = self.cluster.prefill[run.prefill].profile
        latency_ms = self.cluster.link_latency_ms + source.ttft_overhead_ms
        num_bytes = run.prompt * source.kv_bytes_per_token
        self.network.start(now_ms, run, run.prefill, run.decode, num_bytes, latency_ms)

    def _hold_prefix(self, run: CallRun) -> None:
        """The replica now holds the call's prompt for later calls of its prefix group."""
        cache = self.prefill[run.prefill].cache
        if cache is None:
            return
        workflow, group = run.workflow, run.call.prefix_group
        kept, evicted = cache.hold((workflow.slot, group), run.prompt)
        workflow.prefix_groups.add(group)
        for owner, other in evicted:
            self.counters.prefix_evictions += 1
            self.state.prefix_held(owner, other, run.prefill, 0)
        self.state.prefix_held(workflow.slot, group, run.prefill, kept)

    def _transfer_done(self, now_ms: float, run: CallRun, contended: bool) -> None:
        run.stage = WAIT_DECODE
        run.transfer_end_ms = now_ms
        self.counters.transfers_contended += contended
        self.state.transfer_done(now_ms, run.slot)
        self._note("transfer_done", now_ms, run, run.decode)
        server = self.decode[run.decode]
        server.queue.push(run)
        self.dispatcher.wake(server)

    def _decode_started(self, now_ms: float, run: CallRun) -> None:
        reloaded = run.stage == DECODE
        run.stage = DECODE
        run.decode_start_ms = now_ms
        if reloaded:  # the state never saw it leave: tell it how far the call is
            self.state.call_progress(now_ms, run.slot, run.generated, run.predicted)
        else:
            self.state.decode_started(now_ms, run.slot)
        self._note("decode_started", now_ms, run, run.decode)

    def _grown(self, now_ms: float, run: CallRun) -> None:
        self.state.call_progress(now_ms, run.slot, run.generated, run.predicted)
        self._note("call_progress", now_ms, run, run.decode)

    def _refine(self, run: CallRun, generated: int) -> int:
        return min(self.predictor.refine(run.view, generated), self.most_tokens - run.call.input_tokens)

    def _pushed_back(self, now_ms: float, run: CallRun) -> None:
        """A full replica gave the call up: it waits for prefill again, of prompt and output so far."""
        run.predicted = min(run.predicted, self.most_tokens - run.call.input_tokens)
        self.state.call_progress(now_ms, run.slot, run.generated, run.predicted)
        self.requeue(now_ms, run)

    def requeue(self, now_ms: float, run: CallRun) -> None:
        """Wait for prefill again; the KV is lost, output tokens are kept as prompt."""
        run.prompt = run.call.input_tokens + run.generated
        run.blocks = run.computed = 0
        run.on_host = False
        self.state.call_requeued(now_ms, run.slot, run.generated)
        self._wait_for_prefill("call_requeued", now_ms, run)

    def _call_done(self, now_ms: float, run: CallRun) -> None:
        run.stage = DONE
        self.predictor.observe(run.view, run.generated)
        self.state.call_done(now_ms, run.slot, run.generated)
        del self.dispatcher.by_slot[run.slot]
        self._note("call_done", now_ms, run, run.decode)
        self._record(now_ms, run)
        workflow = run.workflow
        for child_index in workflow.children[run.index]:
            child = workflow.runs[child_index]
            child.pending -= 1
            if not child.pending:
                self._reveal_later(now_ms, child)
        workflow.unfinished -= 1
        if not workflow.unfinished:
            self._close(now_ms, workflow)

    def _close(self, now_ms: float, workflow: WorkflowRun) -> None:
        self._finish_ms[workflow.index] = now_ms
        self.dispatcher.num_left -= 1
        self.state.workflow_close(now_ms, workflow.slot)
        self._note("workflow_close", now_ms, workflow)
        del self._open[workflow.index]
        workflow.runs.clear()  # no cycle is left for the garbage collector
        for server in self.prefill:
            if server.cache is not None:
                server.cache.drop([(workflow.slot, group) for group in workflow.prefix_groups])

    def _note(self, kind: str, now_ms: float, where: CallRun | WorkflowRun, replica: int = -1) -> None:
        """Count an event towards the next decision, and log it if asked for."""
        if self._needs[kind]:
            self.dispatcher.decision_due = True
        if self._log is not None:
            workflow, call = (where.workflow.index, where.index) if type(where) is CallRun else (where.index, -1)
            self._log(Event(now_ms, kind, workflow, call, replica))

    # -- outcome -----------------------------------------------------------------------------------------------------

    def _record(self, now_ms: float, run: CallRun) -> None:
        self._rows.append(
            (
                run.workflow.index,
                run.index,
                run.prefill,
                run.decode,
                run.cached,
                run.pushbacks,
                run.attempt,
                run.ready_ms,
                run.prefill_start_ms,
                run.prefill_end_ms,
                run.transfer_end_ms,
                run.decode_start_ms,
                now_ms,
            )
        )

    def _result(self) -> SimulationResult:
        counters, prefill, decode = self.counters, self.prefill, self.decode
        counters.prefill_batches = sum(server.num_batches for server in prefill)
        counters.kv_waits = sum(server.num_blocked for server in decode)
        counters.growths = sum(server.num_growths for server in decode)
        counters.pushbacks = sum(server.num_pushbacks for server in decode)
        counters.decode_segments = sum(server.num_segments for server in decode)
        counters.events = self.kernel.num_scheduled
        return SimulationResult(
            workload=self.workload,
            arrival_ms=np.array([workflow.arrival_ms for workflow in self.workload.workflows]),
            finish_ms=np.array(self._finish_ms),
            counters=counters,
            prefill_busy_ms=np.array([server.busy_ms for server in prefill]),
            decode_busy_ms=np.array([server.busy_ms for server in decode]),
            peak_kv_blocks=np.array([server.capacity_blocks - server.least_free_blocks for server in decode]),
            end_ms=max(self._finish_ms, default=0.0),
            events=self.events,
            _rows=self._rows,
        )
