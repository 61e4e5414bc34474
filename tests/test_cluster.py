"""Clusters: bandwidth, transfer time and capacity worked out by hand; content decides equality; bad input is named."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.cluster import BLOCK_TOKENS, GIB, Cluster, Replica, Role, default_kv_capacity_tokens
from hexsolve.errors import InputError
from hexsolve.profile import DecodeLine, PrefillLine, Profile

PROFILE = Profile("llm", "G", 4, "vllm", PrefillLine(10.0, 0.1, 0.0), DecodeLine(20.0, 0.1, 1e-4), 327_680)


def make_replica(name: str, role: Role, bandwidth_gb_s: float = 40.0, **fields: object) -> Replica:
    base = Replica(name, role, "G", 4, PROFILE, 1600, bandwidth_gb_s)
    return replace(base, **fields)  # type: ignore[arg-type]


def make_cluster(**fields: object) -> Cluster:
    prefill = (make_replica("P0", "prefill", 40.0), make_replica("P1", "prefill", 10.0))
    decode = (make_replica("D0", "decode", 20.0), make_replica("D1", "decode", 50.0), make_replica("D2", "decode", 5.0))
    return replace(Cluster("c", "llm", prefill, decode), **fields)  # type: ignore[arg-type]


def test_pair_bandwidth_is_the_least_of_source_destination_and_link() -> None:
    cluster = make_cluster(links={("P0", "D1"): 15.0, ("P1", "D0"): 99.0})
    assert (cluster.num_prefill, cluster.num_decode) == (2, 3)
    np.testing.assert_array_equal(cluster.pair_bandwidth_gb_s(), [[20.0, 15.0, 5.0], [10.0, 10.0, 5.0]])


def test_transfer_of_32k_tokens_of_a_70b_llm() -> None:
    # 32,768 tokens * 327,680 B = 10.737 GB; at 40 GB/s 268.4 ms (DESIGN §5: 0.27 s on one NIC) + 2 latency + 30 TTFT.
    cluster = make_cluster(decode=(make_replica("D0", "decode", 40.0),))
    assert cluster.transfer_ms(32_768)[0, 0] == pytest.approx(2 + 30 + 268.435, abs=1e-3)
    assert cluster.transfer_ms(0)[1, 0] == 32.0


@given(st.integers(0, 10**6), st.floats(0.5, 400.0), st.floats(0.5, 400.0), st.floats(0.0, 10.0))
def test_transfer_is_fixed_part_plus_bytes_over_bandwidth(
    tokens: int, source: float, target: float, latency: float
) -> None:
    cluster = Cluster(
        "c", "llm", (make_replica("P", "prefill", source),), (make_replica("D", "decode", target),), latency
    )
    seconds = tokens * 327_680 / (min(source, target) * 1e9)
    assert cluster.transfer_ms(tokens)[0, 0] == pytest.approx(latency + 30.0 + 1000 * seconds)


@pytest.mark.parametrize(("memory_gib", "tokens"), [(79.15, 470_000), (79.10, 470_000), (139.8, 1_190_000)])
def test_default_capacity_matches_the_published_figures_of_a_70b_llm(memory_gib: float, tokens: int) -> None:
    found = default_kv_capacity_tokens(memory_gib * GIB, 141.1e9, 4, 327_680, 8)
    assert found == pytest.approx(tokens, rel=0.01)
    assert found % BLOCK_TOKENS == 0


def test_default_capacity_counts_copies_of_kv_heads() -> None:
    # Free per GPU: 0.9*100 GiB - 0 - 2.5 GiB = 87.5 GiB; 8 GPUs = 700 GiB; 4 heads on 8 GPUs are held twice.
    assert default_kv_capacity_tokens(100 * GIB, 0.0, 8, GIB // 16, 8) == 700 * 16
    assert default_kv_capacity_tokens(100 * GIB, 0.0, 8, GIB // 16, 4) == 350 * 16
    # TP1 needs no 0.4 GiB of communication buffers: 90 - 2.1 = 87.9 GiB = 1406.4 tokens, 87 whole blocks.
    assert default_kv_capacity_tokens(100 * GIB, 0.0, 1, GIB // 16, 4) == 87 * 16


def test_weights_that_do_not_fit_leave_no_capacity() -> None:
    assert default_kv_capacity_tokens(79.15 * GIB, 470.2e9, 4, 192_512, 4) <= 0


def test_equal_content_is_equal_and_survives_pickling() -> None:
    cluster = make_cluster(links={("P0", "D1"): 15.0, ("P1", "D0"): 99.0})
    same = make_cluster(links={("P1", "D0"): 99, ("P0", "D1"): 15})
    assert cluster == same
    assert hash(cluster) == hash(pickle.loads(pickle.dumps(same)))
    assert len({cluster, same}) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "other"},
        {"link_latency_ms": 3.0},
        {"links": {("P0", "D1"): 15.0}},
        {"prefill": (make_replica("P0", "prefill"),)},
        {"decode": (make_replica("D0", "decode", profile=PROFILE.scaled(1.01)),)},
        {"decode": (make_replica("D0", "decode", profile=replace(PROFILE, decode=DecodeLine(20.0, 0.1, 0.0))),)},
    ],
)
def test_any_change_changes_the_digest(fields: dict[str, object]) -> None:
    assert make_cluster(**fields).digest() != make_cluster().digest()


def test_digest_is_the_same_in_every_process() -> None:
    # A stored digest: it must not depend on hash seeds, dict order or the platform.
    cluster = make_cluster(links={("P0", "D1"): 15.0})
    assert cluster.digest() == "05b34958c214bc0afe4fce17889e741dfc5e65c83f491230f22253a1e0930783"


def test_links_are_copied_so_that_the_caller_cannot_change_the_cluster() -> None:
    links = {("P0", "D1"): 15.0}
    cluster = make_cluster(links=links)
    links["P0", "D1"] = 1.0
    assert cluster.pair_bandwidth_gb_s()[0, 1] == 15.0


@pytest.mark.parametrize("name", ["transfer_fixed_ms", "transfer_ms_per_token", "kv_capacity_blocks"])
def test_cached_arrays_are_read_only(name: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        getattr(make_cluster(), name)[...] = 0


def test_capacity_counts_whole_blocks() -> None:
    cluster = make_cluster(decode=(make_replica("D0", "decode", kv_capacity_tokens=47),))
    assert cluster.kv_capacity_blocks.tolist() == [2]


def test_scaled_speeds_up_one_gpu_type_only() -> None:
    fast = make_replica("D1", "decode", gpu="H")
    cluster = make_cluster(decode=(make_replica("D0", "decode"), fast)).scaled({"H": 2.0})
    base_ms = PROFILE.decode_step_ms(4, 1000)
    assert [d.profile.decode_step_ms(4, 1000) for d in cluster.decode] == pytest.approx([base_ms, base_ms / 2])
    with pytest.raises(InputError, match=r"gpu 'X': expected one of \['G'\]"):
        make_cluster().scaled({"X": 2.0})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefill": ()}, "prefill: expected at least one replica, got none"),
        ({"decode": (make_replica("P0", "decode"),)}, "replica name 'P0': expected once, got twice"),
        ({"decode": (make_replica("X", "prefill"),)}, "decode replica 'X': expected role 'decode', got 'prefill'"),
        ({"llm": "other"}, "expected a profile of llm 'other', got 'llm'"),
        ({"link_latency_ms": -1.0}, "link_latency_ms: expected a finite number >= 0, got -1.0"),
        ({"links": {("D0", "P0"): 1.0}}, r"links\['D0', 'P0'\]: expected a prefill replica of \['P0', 'P1'\]"),
        ({"links": {("P0", "D0"): 0.0}}, r"links\['P0', 'D0'\]: expected a finite number > 0, got 0.0"),
    ],
)
def test_bad_clusters_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_cluster(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "replica name: expected a non-empty string, got ''"),
        ({"role": "both"}, 'role: expected "prefill" or "decode", got \'both\''),
        ({"tp": 0}, "tp: expected an int >= 1, got 0"),
        ({"kv_capacity_tokens": 15}, "kv_capacity_tokens: expected an int >= 16, got 15"),
        ({"max_batch_tokens": 2.5}, "max_batch_tokens: expected an int >= 1, got 2.5"),
        ({"max_running": True}, "max_running: expected an int >= 1, got True"),
        ({"bandwidth_gb_s": float("inf")}, "bandwidth_gb_s: expected a finite number > 0, got inf"),
    ],
)
def test_bad_replicas_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(make_replica("R", "prefill"), **fields)  # type: ignore[arg-type]
