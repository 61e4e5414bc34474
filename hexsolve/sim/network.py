"""KV transfers that share network cards. Knows flows, bytes and bandwidths; knows nothing of tokens or policies."""

from collections.abc import Callable, Mapping, Sequence

from hexsolve.sim.calls import CallRun
from hexsolve.sim.kernel import TRANSFER_END, Kernel

BYTES_PER_MS_PER_GB_S = 1e6


_NEVER = float("inf")


class Flow:
    """One transfer under way: `left` bytes at `since_ms`, moving at `rate` bytes/ms until `end_ms`.

    `event_ms` is when its end will be looked at, `due_ms` when it will be delivered (inf: not scheduled). A `lone`
    flow has shared no card so far: nobody else cares when it ends, so that its delivery is its only event. `full_rate`
    is what it would have with nobody else.
    """

    __slots__ = (
        "contended",
        "dst",
        "due_ms",
        "end_ms",
        "event_ms",
        "full_rate",
        "latency_ms",
        "left",
        "lone",
        "rate",
        "run",
        "since_ms",
        "src",
    )

    def __init__(
        self, run: CallRun, src: int, dst: int, num_bytes: float, latency_ms: float, now_ms: float, full_rate: float
    ) -> None:
        self.run, self.src, self.dst, self.left = run, src, dst, num_bytes
        self.latency_ms, self.since_ms, self.full_rate = latency_ms, now_ms, full_rate
        self.rate = 0.0
        self.end_ms = self.event_ms = self.due_ms = _NEVER
        self.lone = self.contended = False


class Network:
    """Every card shares its bandwidth equally: rate = min(src/flows at src, dst/flows at dst, link/flows on link).

    Rates change only for the flows that share a card with one that starts or ends, at that instant; between changes
    they are constant, so that end times are exact. A flow that ends frees its cards at once and is delivered after
    its fixed latency.

    Parameters
    ----------
    src_gb_s, dst_gb_s : sequence of float
        Bandwidth of each prefill and decode replica.
    link_gb_s : mapping
        (prefill index, decode index) → bandwidth of that link, shared by its flows; a pair that is absent has no cap.
    deliver : callable
        Called as ``deliver(now_ms, run, contended)`` when a transfer is complete, latency included.
    """

    __slots__ = ("_at_dst", "_at_src", "_deliver", "_dst_rate", "_kernel", "_link_rate", "_src_rate")

    def __init__(
        self,
        kernel: Kernel,
        src_gb_s: Sequence[float],
        dst_gb_s: Sequence[float],
        link_gb_s: Mapping[tuple[int, int], float],
        deliver: Callable[[float, CallRun, bool], None],
    ) -> None:
        self._kernel, self._deliver = kernel, deliver
        self._src_rate = [gb_s * BYTES_PER_MS_PER_GB_S for gb_s in src_gb_s]
        self._dst_rate = [gb_s * BYTES_PER_MS_PER_GB_S for gb_s in dst_gb_s]
        self._link_rate = {pair: gb_s * BYTES_PER_MS_PER_GB_S for pair, gb_s in link_gb_s.items()}
        self._at_src: list[dict[Flow, None]] = [{} for _ in src_gb_s]  # in order of start
        self._at_dst: list[dict[Flow, None]] = [{} for _ in dst_gb_s]

    def start(self, now_ms: float, run: CallRun, src: int, dst: int, num_bytes: float, latency_ms: float) -> None:
        """Begin to move `num_bytes` from prefill replica `src` to decode replica `dst`."""
        full_rate = min(self._src_rate[src], self._dst_rate[dst])
        if self._link_rate:
            full_rate = min(full_rate, self._link_rate.get((src, dst), _NEVER))
        flow = Flow(run, src, dst, num_bytes, latency_ms, now_ms, full_rate)
        run.flow = flow
        at_src, at_dst = self._at_src[src], self._at_dst[dst]
        if at_src or at_dst:
            self._drop_ended(now_ms, [*at_src, *at_dst])
        flow.lone = not (at_src or at_dst)
        at_src[flow] = at_dst[flow] = None
        if flow.lone:
            flow.rate = full_rate
            flow.end_ms = now_ms + flow.left / flow.rate
            self._deliver_later(flow)
        else:
            self._share(now_ms, src, dst)

    def abort(self, now_ms: float, flow: Flow) -> None:
        """Lose a transfer, whether it still moves or only its latency is left."""
        flow.due_ms = flow.event_ms = _NEVER
        self._leave(now_ms, flow)

    def _drop_ended(self, now_ms: float, flows: list[Flow]) -> None:
        """Take lone flows that have ended off their cards: they have no event of their own for that."""
        for flow in flows:
            if flow.lone and flow.end_ms <= now_ms:
                self._at_src[flow.src].pop(flow, None)
                self._at_dst[flow.dst].pop(flow, None)

    def _share(self, now_ms: float, src: int, dst: int) -> None:
        """Give every flow at either card its fair rate from now on."""
        at_src, at_dst = self._at_src[src], self._at_dst[dst]
        for flow in at_src:
            self._set_rate(now_ms, flow)
        for flow in at_dst:
            if flow.src != src:
                self._set_rate(now_ms, flow)

    def _set_rate(self, now_ms: float, flow: Flow) -> None:
        src, dst = flow.src, flow.dst
        rate = min(self._src_rate[src] / len(self._at_src[src]), self._dst_rate[dst] / len(self._at_dst[dst]))
        if self._link_rate and (src, dst) in self._link_rate:
            rate = min(rate, self._link_rate[src, dst] / sum(other.dst == dst for other in self._at_src[src]))
        if rate != flow.rate:
            if rate < flow.full_rate:
                flow.contended = True
            if now_ms > flow.since_ms:
                flow.left = max(0.0, flow.left - flow.rate * (now_ms - flow.since_ms))
                flow.since_ms = now_ms
            flow.rate = rate
            flow.end_ms = now_ms + flow.left / rate
        if flow.lone:  # its end matters to others now
            flow.lone, flow.due_ms = False, _NEVER
        if flow.end_ms < flow.event_ms:
            flow.event_ms = flow.end_ms
            self._kernel.at(flow.end_ms, TRANSFER_END, self._on_end, flow)

    def _on_end(self, now_ms: float, flow: Flow) -> None:
        if now_ms != flow.event_ms:
            return
        flow.event_ms = _NEVER
        if now_ms < flow.end_ms:  # slowed down since this event was set: look again at the later end
            flow.event_ms = flow.end_ms
            self._kernel.at(flow.end_ms, TRANSFER_END, self._on_end, flow)
            return
        self._leave(now_ms, flow)
        self._deliver_later(flow)

    def _leave(self, now_ms: float, flow: Flow) -> None:
        src, dst = flow.src, flow.dst
        if self._at_src[src].pop(flow, flow) is None:
            del self._at_dst[dst][flow]
            self._share(now_ms, src, dst)

    def _deliver_later(self, flow: Flow) -> None:
        flow.due_ms = flow.end_ms + flow.latency_ms
        self._kernel.at(flow.due_ms, TRANSFER_END, self._on_delivered, flow)

    def _on_delivered(self, now_ms: float, flow: Flow) -> None:
        if now_ms != flow.due_ms:
            return
        if flow.lone:
            self._at_src[flow.src].pop(flow, None)
            self._at_dst[flow.dst].pop(flow, None)
        flow.due_ms = _NEVER
        flow.run.flow = None
        self._deliver(now_ms, flow.run, flow.contended)
