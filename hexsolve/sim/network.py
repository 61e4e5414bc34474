"""KV transfers that share network cards. Knows flows, bytes and bandwidths; knows nothing of tokens or policies."""

from collections.abc import Callable, Mapping, Sequence

from hexsolve.sim.calls import CallRun
from hexsolve.sim.kernel import TRANSFER_END, Kernel

BYTES_PER_MS_PER_GB_S = 1e6


class Flow:
    """One transfer under way: `left` bytes at `since_ms`, moving at `rate` bytes/ms, due at `end_ms`."""

    __slots__ = (
        "alive",
        "contended",
        "dst",
        "end_ms",
        "event_ms",
        "latency_ms",
        "left",
        "rate",
        "run",
        "since_ms",
        "src",
    )

    def __init__(self, run: CallRun, src: int, dst: int, num_bytes: float, latency_ms: float, now_ms: float) -> None:
        self.run, self.src, self.dst, self.left = run, src, dst, num_bytes
        self.latency_ms, self.since_ms = latency_ms, now_ms
        self.rate = 0.0
        self.end_ms = self.event_ms = float("inf")
        self.alive, self.contended = True, False


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
        flow = Flow(run, src, dst, num_bytes, latency_ms, now_ms)
        run.flow = flow
        self._at_src[src][flow] = None
        self._at_dst[dst][flow] = None
        self._share(now_ms, src, dst)

    def abort(self, now_ms: float, flow: Flow) -> None:
        """Lose a transfer, whether it still moves or only its latency is left."""
        flow.alive = False
        self._leave(now_ms, flow)

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
        src_rate, dst_rate = self._src_rate[src], self._dst_rate[dst]
        rate = min(src_rate / len(self._at_src[src]), dst_rate / len(self._at_dst[dst]))
        alone = min(src_rate, dst_rate)
        if self._link_rate and (src, dst) in self._link_rate:
            link_rate = self._link_rate[src, dst]
            rate = min(rate, link_rate / sum(other.dst == dst for other in self._at_src[src]))
            alone = min(alone, link_rate)
        if rate == flow.rate:
            return
        flow.contended |= rate < alone
        flow.left = max(0.0, flow.left - flow.rate * (now_ms - flow.since_ms))
        flow.since_ms, flow.rate = now_ms, rate
        flow.end_ms = end_ms = now_ms + flow.left / rate
        if end_ms < flow.event_ms:
            flow.event_ms = end_ms
            self._kernel.at(end_ms, TRANSFER_END, self._on_end, flow)

    def _on_end(self, now_ms: float, flow: Flow) -> None:
        if not flow.alive or now_ms != flow.event_ms:
            return
        if now_ms < flow.end_ms:  # slowed down since this event was set: look again at the later end
            flow.event_ms = flow.end_ms
            self._kernel.at(flow.end_ms, TRANSFER_END, self._on_end, flow)
            return
        self._leave(now_ms, flow)
        flow.event_ms = -1.0
        self._kernel.at(now_ms + flow.latency_ms, TRANSFER_END, self._on_delivered, flow)

    def _leave(self, now_ms: float, flow: Flow) -> None:
        src, dst = flow.src, flow.dst
        if self._at_src[src].pop(flow, flow) is None:
            del self._at_dst[dst][flow]
            self._share(now_ms, src, dst)

    def _on_delivered(self, now_ms: float, flow: Flow) -> None:
        if flow.alive:
            flow.alive = False
            flow.run.flow = None
            self._deliver(now_ms, flow.run, flow.contended)
