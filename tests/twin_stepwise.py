"""A slow second simulator that walks every decode step and drains transfers as fluids, for comparison.

Shares no code with `hexsolve.sim`: no event heap, no jumps, no queues, only lists that are searched at every instant.
It knows oracle predictions, strict rank order, KV blocks of 16 tokens and equal shares of network cards; no prefixes,
chunks or faults.
"""

from dataclasses import dataclass, field

WAIT_PARENTS, WAIT_PREFILL, PREFILL, FLOW, LATENCY, WAIT_DECODE, DECODE, DONE = range(8)


@dataclass
class SlowCall:
    workflow_id: str
    request_id: str
    prompt: int
    output: int
    parents: list["SlowCall"]
    delay_ms: float
    arrival_ms: float
    prefill: int = 0
    decode: int = 0
    rank: int = 0
    stage: int = WAIT_PARENTS
    generated: int = 0
    bytes_left: float = 0.0
    until_ms: float = 0.0
    done_ms: float = 0.0

    @property
    def blocks(self):
        return (self.prompt + self.output + 15) // 16


@dataclass
class SlowReplica:
    calls: list[SlowCall] = field(default_factory=list)
    end_ms: float | None = None  # of the batch or decode step under way


def slow_finish_ms(cluster, workload, place):
    """(workflow_id, request_id) -> completion time; `place` as for the fake engine, without the serial."""
    return _Slow(cluster, workload, place).run()


class _Slow:
    def __init__(self, cluster, workload, place):
        self.cluster, self.now = cluster, 0.0
        self.calls = []
        for workflow in workload.workflows:
            known = {}
            for call in workflow.calls:
                slow = SlowCall(
                    workflow.workflow_id,
                    call.request_id,
                    call.input_tokens,
                    call.output_tokens,
                    [known[name] for name in call.dependencies],
                    call.delay_ms,
                    workflow.arrival_ms,
                )
                slow.prefill, slow.decode, slow.rank = place(workflow.workflow_id, call.request_id)
                known[call.request_id] = slow
                self.calls.append(slow)
        self.prefills = [SlowReplica() for _ in cluster.prefill]
        self.decodes = [SlowReplica() for _ in cluster.decode]

    def run(self):
        while any(call.stage != DONE for call in self.calls):
            self.finish_what_is_due()
            self.start_what_can_start()
            self.move_to(min(self.next_times()))
        return {(call.workflow_id, call.request_id): call.done_ms for call in self.calls}

    def reveal_ms(self, call):
        if any(parent.stage != DONE for parent in call.parents):
            return None
        return max([call.arrival_ms] + [parent.done_ms for parent in call.parents]) + call.delay_ms

    def rate(self, flow):
        flows = self.at(FLOW)
        src = self.cluster.prefill[flow.prefill].bandwidth_gb_s * 1e6
        dst = self.cluster.decode[flow.decode].bandwidth_gb_s * 1e6
        return min(
            src / sum(other.prefill == flow.prefill for other in flows),
            dst / sum(other.decode == flow.decode for other in flows),
        )

    def at(self, stage):
        return [call for call in self.calls if call.stage == stage]

    def next_times(self):
        for call in self.at(WAIT_PARENTS):
            if (time := self.reveal_ms(call)) is not None:
                yield time
        for replica in self.prefills + self.decodes:
            if replica.end_ms is not None:
                yield replica.end_ms
        for call in self.at(FLOW):
            yield self.now + call.bytes_left / self.rate(call)
        for call in self.at(LATENCY):
            yield call.until_ms
        if all(call.stage == DONE for call in self.calls):
            yield self.now

    def move_to(self, time):
        rates = [(call, self.rate(call)) for call in self.at(FLOW)]
        for call, rate in rates:
            call.bytes_left -= rate * (time - self.now)
        self.now = time

    def finish_what_is_due(self):
        for replica in self.decodes:
            if replica.end_ms is not None and replica.end_ms <= self.now:
                replica.end_ms = None
                for call in list(replica.calls):
                    call.generated += 1
                    if call.generated == call.output:
                        call.stage, call.done_ms = DONE, self.now
                        replica.calls.remove(call)
        for call in self.at(LATENCY):
            if call.until_ms <= self.now:
                call.stage = WAIT_DECODE
        for call in self.at(FLOW):
            if call.bytes_left <= 1e-3:
                call.stage = LATENCY
                source = self.cluster.prefill[call.prefill].profile
                call.until_ms = self.now + self.cluster.link_latency_ms + source.ttft_overhead_ms
        for index, replica in enumerate(self.prefills):
            if replica.end_ms is not None and replica.end_ms <= self.now:
                replica.end_ms = None
                for call in replica.calls:
                    call.stage = FLOW
                    call.bytes_left = call.prompt * self.cluster.prefill[index].profile.kv_bytes_per_token
                replica.calls = []
        for call in self.at(WAIT_PARENTS):
            time = self.reveal_ms(call)
            if time is not None and time <= self.now:
                call.stage = WAIT_PREFILL

    def start_what_can_start(self):
        for index, replica in enumerate(self.prefills):
            if replica.end_ms is None:
                self.start_batch(index, replica)
        for index, replica in enumerate(self.decodes):
            if replica.end_ms is None:
                self.start_step(index, replica)

    def start_batch(self, index, replica):
        spec, tokens, area = self.cluster.prefill[index], 0, 0
        for call in sorted(self.at(WAIT_PREFILL), key=lambda call: call.rank):
            if call.prefill != index:
                continue
            if replica.calls and tokens + call.prompt > spec.max_batch_tokens:
                break
            replica.calls.append(call)
            call.stage = PREFILL
            tokens, area = tokens + call.prompt, area + call.prompt**2
        if replica.calls:
            replica.end_ms = self.now + spec.profile.prefill_ms(tokens, area)

    def start_step(self, index, replica):
        spec = self.cluster.decode[index]
        for call in sorted(self.at(WAIT_DECODE), key=lambda call: call.rank):
            if call.decode != index:
                continue
            used = sum(other.blocks for other in replica.calls)
            if len(replica.calls) == spec.max_running or used + call.blocks > spec.kv_capacity_tokens // 16:
                break
            replica.calls.append(call)
            call.stage = DECODE
        if replica.calls:
            context = sum(call.prompt + call.generated for call in replica.calls)
            replica.end_ms = self.now + spec.profile.decode_step_ms(len(replica.calls), context)
