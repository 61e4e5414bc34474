"""Small clusters and random workloads for tests of the simulator."""

import random

from hexsolve.cluster import Cluster, Replica
from hexsolve.profile import DecodeLine, DecodeTable, PrefillLine, Profile
from hexsolve.workflow import Call, Workflow, Workload

LINE = DecodeLine(a_ms=5.0, b_ms_per_call=0.5, c_ms_per_token=0.002)
TABLE = DecodeTable(
    batch=(1.0, 2.0, 4.0),
    context_tokens=(0.0, 40.0, 90.0, 200.0),
    step_ms=((4.0, 5.0, 5.5, 9.0), (5.0, 6.5, 7.0, 12.0), (5.5, 9.0, 12.0, 20.0)),
)


def profile(decode=LINE, prefill=None, kv_bytes_per_token=100_000, ttft_overhead_ms=3.0, kappa=1.0):
    """A profile without server factors, so that arithmetic in tests stays simple."""
    return Profile(
        llm="tiny",
        gpu="G",
        tp=1,
        engine="test",
        prefill=prefill or PrefillLine(2.0, 0.05, 1e-6, 3.0),
        decode=decode,
        kv_bytes_per_token=kv_bytes_per_token,
        kappa_prefill=kappa,
        kappa_decode=kappa,
        ttft_overhead_ms=ttft_overhead_ms,
    )


def cluster(
    num_prefill=1,
    num_decode=1,
    *,
    speed=None,
    kv_capacity_tokens=100_000,
    prefill_kv_tokens=100_000,
    bandwidth_gb_s=1.0,
    max_batch_tokens=512,
    max_running=64,
    link_latency_ms=2.0,
    links=None,
):
    """Equal replicas p0.. and d0.. of one profile."""
    speed = speed or profile()
    prefill = tuple(
        Replica(f"p{i}", "prefill", "G", 1, speed, prefill_kv_tokens, bandwidth_gb_s, max_batch_tokens=max_batch_tokens)
        for i in range(num_prefill)
    )
    decode = tuple(
        Replica(f"d{i}", "decode", "G", 1, speed, kv_capacity_tokens, bandwidth_gb_s, max_running=max_running)
        for i in range(num_decode)
    )
    return Cluster("test", "tiny", prefill, decode, link_latency_ms=link_latency_ms, links=links or {})


def random_workload(seed, num_workflows=8, most_calls=6, most_input=200, most_output=60, spread_ms=400.0, reuse=False):
    """Random DAGs: every call depends on up to two earlier ones; some tools take time."""
    rng = random.Random(seed)
    workflows = []
    for w in range(num_workflows):
        calls = []
        for c in range(rng.randint(1, most_calls)):
            parents = rng.sample(range(c), rng.randint(0, min(2, c)))
            tokens = rng.randint(1, most_input)
            calls.append(
                Call(
                    request_id=f"c{c}",
                    input_tokens=tokens,
                    output_tokens=rng.randint(1, most_output),
                    dependencies=tuple(f"c{p}" for p in parents),
                    delay_ms=rng.choice((0.0, 0.0, rng.uniform(0.0, 50.0))),
                    kind=rng.choice("ab"),
                    cached_prefix_tokens=rng.randint(0, tokens - 1) if reuse else 0,
                    prefix_group=rng.choice("xy") if reuse else "",
                )
            )
        workflows.append(Workflow(f"w{w}", "random", rng.uniform(0.0, spread_ms), tuple(calls)))
    return Workload("random", tuple(workflows))


def one_call_each(arrivals_ms, lengths, output_tokens=1):
    """Single-call workflows: (arrival, prompt tokens) pairs, or output tokens as a list too."""
    outputs = output_tokens if isinstance(output_tokens, list) else [output_tokens] * len(lengths)
    return Workload(
        "single",
        tuple(
            Workflow(f"w{i}", "single", arrival, (Call("c", length, output),))
            for i, (arrival, length, output) in enumerate(zip(arrivals_ms, lengths, outputs, strict=True))
        ),
    )
