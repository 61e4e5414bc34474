"""A cluster as flat arrays for the kernels. Knows replica types, links and decode grids; knows no call's progress.

Record types live here, once: the state writes them, the snapshot copies them, the kernels read them.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hexsolve.cluster import BLOCK_TOKENS, Cluster, Replica
from hexsolve.profile import Profile

Records = NDArray[Any]  # structured arrays of the dtypes below
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EMPTY, WAIT_PREFILL, PREFILL, TRANSFER, WAIT_DECODE, DECODE = range(6)
UNRANKED = -(2**62)  # rank of a call that no plan has reached
STAGE_NAMES = ("empty", "wait_prefill", "prefill", "transfer", "wait_decode", "decode")


def record_type(fields: list[tuple[str, str]]) -> np.dtype[Any]:
    """Record type whose fields are attributes in interpreted kernels too, as numba has them in compiled ones."""
    return np.dtype((np.record, np.dtype(fields, align=True)))


CALL_DTYPE = record_type(
    [
        ("serial", "i8"),  # unique over the life of the state; tells a reused slot from the call a plan was made for
        ("slot", "i8"),
        ("stage", "i8"),
        ("workflow", "i8"),  # workflow slot
        ("prefix", "i8"),  # prefix-group slot; 0 = shares nothing
        ("input_tokens", "i8"),  # prompt, with tokens to be recomputed after a push-back
        ("cached_tokens", "i8"),  # reusable prefix, if the prefill replica holds it
        ("predicted_tokens", "i8"),  # predicted output length still to be decoded after the prefill
        ("restored_tokens", "i8"),  # output tokens that a push-back or failure made part of input_tokens
        ("kv_blocks", "i8"),  # decode reservation in blocks of BLOCK_TOKENS
        ("prefill", "i8"),  # adopted placement, -1 none
        ("decode", "i8"),
        ("rank", "i8"),  # adopted local queue priority, smaller first; UNRANKED before
        ("kind", "i8"),  # interned (workflow class, step kind)
        ("step", "i8"),  # calls of this workflow revealed before it
        ("ready_ms", "f8"),  # became waiting
        ("revealed_ms", "f8"),
        ("stage_ms", "f8"),  # start of the current stage
        ("expected_ms", "f8"),  # PREFILL: batch end; TRANSFER: KV arrival
        ("step_mark", "f8"),  # DECODE: virtual step count of the replica at which the call had no output
        ("service_ms", "f8"),  # observed service so far (prefill + transfer), without waiting
        ("alone_start_ms", "f8"),  # standalone schedule of the workflow, relative to its arrival
        ("alone_finish_ms", "f8"),
        ("arrival_ms", "f8"),  # of the workflow
        ("horizon_ms", "f8"),  # H_w(t) of the workflow
        ("tail_ms", "f8"),  # declared standalone time of the rest of the workflow after the call, 0 if nothing is
        ("whole_ms", "f8"),  # declared standalone makespan of the whole workflow, >= horizon_ms
        ("rest_ms", "f8"),  # learned rest of the workflow after the call (`remainder`), 0 if tails are declared
    ]
)

CALL_ROW = Struct("=" + "".join({"i": "q", "f": "d"}[CALL_DTYPE[name].kind] for name in CALL_DTYPE.names or ()))
"""One record of `CALL_DTYPE` as bytes: written at once, three times as fast as through the array."""

PREFILL_DTYPE = record_type([("kind", "i8"), ("up", "i8"), ("free_ms", "f8")])

DECODE_DTYPE = record_type(
    [
        ("kind", "i8"),
        ("up", "i8"),
        ("capacity_blocks", "i8"),
        ("max_running", "i8"),
        ("running", "i8"),  # B
        ("context_tokens", "f8"),  # C, at last_ms
        ("steps", "f8"),  # virtual steps done by last_ms
        ("last_ms", "f8"),
        ("step_ms", "f8"),  # step time at (B, C)
    ]
)


def records(count: int, dtype: np.dtype[Any]) -> tuple[Ints, Records]:
    """Zeroed table of `count` records: (raw int64 [count, width], structured view). The raw form copies 4× faster."""
    raw = np.zeros((count, dtype.itemsize // 8), dtype=np.int64)
    return raw, raw.view(dtype)[:, 0]


def cells(column: Records) -> Any:
    """A column to read and write one value at a time, as Python numbers: twice as fast as through the array."""
    return column.data


@dataclass(frozen=True, eq=False)
class ClusterTables:
    """The static part of what the kernels read.

    Attributes
    ----------
    prefill_profiles, decode_profiles : distinct profiles of each pool, in order of first use ("kinds").
    prefill_kind : int64 [P], index into prefill_profiles; decode_kind : int64 [D].
    capacity_blocks : int64 [D]; max_running : int64 [D].
    pair : float64 [2, P, D]; [0] fixed latency of a transfer in ms, [1] ms per prompt token, uncontended.
    knots : float64 [kinds, 2, K] batch and mean-context knots of the decode grids, padded by their last value.
    knot_count : int64 [kinds, 2]; grid : float64 [kinds, K, K] decode step in ms.
    """

    cluster: Cluster
    prefill_profiles: tuple[Profile, ...]
    decode_profiles: tuple[Profile, ...]
    prefill_kind: Ints
    decode_kind: Ints
    capacity_blocks: Ints
    max_running: Ints
    pair: Floats
    knots: Floats
    knot_count: Ints
    grid: Floats

    @staticmethod
    def of(cluster: Cluster) -> "ClusterTables":
        """Flatten `cluster`."""
        prefill_profiles, prefill_kind = _kinds(cluster.prefill)
        decode_profiles, decode_kind = _kinds(cluster.decode)
        knots, knot_count, grid = _grids(decode_profiles)
        return ClusterTables(
            cluster,
            prefill_profiles,
            decode_profiles,
            prefill_kind,
            decode_kind,
            np.array([r.kv_capacity_tokens // BLOCK_TOKENS for r in cluster.decode], dtype=np.int64),
            np.array([r.max_running for r in cluster.decode], dtype=np.int64),
            _pair_costs(cluster),
            knots,
            knot_count,
            grid,
        )


def _kinds(replicas: tuple[Replica, ...]) -> tuple[tuple[Profile, ...], Ints]:
    profiles: list[Profile] = []
    kinds = []
    for replica in replicas:
        if replica.profile not in profiles:
            profiles.append(replica.profile)
        kinds.append(profiles.index(replica.profile))
    return tuple(profiles), np.array(kinds, dtype=np.int64)


def _pair_costs(cluster: Cluster) -> Floats:
    fixed = np.asarray(cluster.transfer_ms(0), dtype=np.float64)
    per_token = (np.asarray(cluster.transfer_ms(1_000_000)) - fixed) / 1e6
    return np.ascontiguousarray(np.stack([fixed, per_token]))


def _from_floor(batches: Floats, contexts: Floats, step_ms: Floats) -> tuple[Floats, Floats, Floats]:
    """The same bilinear function with (batch 1, context 0) as its first knot, whose value no step goes below."""
    if batches[0] > 1.0:
        slope = (step_ms[1] - step_ms[0]) / (batches[1] - batches[0])
        step_ms = np.vstack([step_ms[0] - slope * (batches[0] - 1.0), step_ms])
        batches = np.concatenate([[1.0], batches])
    if contexts[0] > 0.0:
        slope = (step_ms[:, 1] - step_ms[:, 0]) / (contexts[1] - contexts[0])
        step_ms = np.column_stack([step_ms[:, 0] - slope * contexts[0], step_ms])
        contexts = np.concatenate([[0.0], contexts])
    return batches, contexts, step_ms


def _grids(profiles: tuple[Profile, ...]) -> tuple[Floats, Ints, Floats]:
    grids = [_from_floor(*profile.decode_grid()) for profile in profiles]
    width = max(max(len(b), len(m)) for b, m, _ in grids)
    knots = np.zeros((len(grids), 2, width))
    counts = np.zeros((len(grids), 2), dtype=np.int64)
    values = np.zeros((len(grids), width, width))
    for k, (batches, contexts, step_ms) in enumerate(grids):
        for axis, points in enumerate((batches, contexts)):
            counts[k, axis] = len(points)
            knots[k, axis] = points[-1]
            knots[k, axis, : len(points)] = points
        values[k, : len(batches), : len(contexts)] = step_ms
    return knots, counts, values
