"""The packaged data: every name loads, the manifests are true, and the paper's clusters have the paper's shape."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from hexsolve.catalog import instances_dir, list_clusters, list_profiles, load_cluster, profile
from hexsolve.errors import InputError

FOLDERS = ("clusters", "profiles")


@pytest.mark.parametrize("folder", FOLDERS)
def test_manifest_lists_every_file_with_its_digest_and_licence(folder: str) -> None:
    root = instances_dir() / folder
    entries = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {entry["file"] for entry in entries} == {f.name for f in root.iterdir() if f.name.endswith(".toml")}
    for entry in entries:
        assert entry.keys() == {"file", "seed", "generator", "digest", "source", "licence"}
        assert hashlib.sha256((root / entry["file"]).read_bytes()).hexdigest() == entry["digest"], entry["file"]


@pytest.mark.parametrize("info", list_clusters(), ids=lambda info: info.name)
def test_every_packaged_cluster_loads_as_described(info: object) -> None:
    cluster = load_cluster(info.name)  # type: ignore[attr-defined]
    described = (info.name, info.num_prefill, info.num_decode, info.llm)  # type: ignore[attr-defined]
    assert described == (cluster.name, cluster.num_prefill, cluster.num_decode, cluster.llm)
    assert info.description  # type: ignore[attr-defined]
    assert load_cluster(info.name).digest() == cluster.digest()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "a100", "h100", "h200"),
    [
        ("hetero-1-llama-70b", 2, 3, 3),
        ("hetero-2-llama-70b", 3, 4, 3),
        ("homog-h200-llama-70b", 0, 0, 4),
        ("hetero-1-qwen3-235b", 2, 3, 3),
        ("hetero-2-qwen3-235b", 3, 4, 3),
        ("homog-a100-qwen3-235b", 4, 0, 0),
    ],
)
def test_pools_are_the_papers(name: str, a100: int, h100: int, h200: int) -> None:
    # HexAGenT (arXiv 2605.16637), set-up: TP4 for Llama; Qwen TP8 on A100 and H100, TP4 on H200.
    cluster = load_cluster(name)
    for pool in (cluster.prefill, cluster.decode):
        assert Counter(r.gpu for r in pool) == Counter({"A100": a100, "H100": h100, "H200": h200})
        assert {r.tp for r in pool if r.gpu == "H200"} <= {4}
        assert {r.tp for r in pool if r.gpu != "H200"} <= {8 if "qwen" in name else 4}


def test_demo_is_small_and_heterogeneous() -> None:
    demo = load_cluster("demo")
    assert [r.name for r in demo.prefill + demo.decode] == ["P0-H100", "P1-A100", "D0-H200", "D1-A100"]


def test_faster_gpus_are_faster() -> None:
    # A100 < H100 <= H200 in decode (memory bandwidth 2.0, 3.35, 4.8 TB/s); prefill is much faster on Hopper.
    for llm, tp in (("llama3.1-70b", 4), ("llama3.1-8b", 1), ("qwen3-32b", 2), ("qwen3-235b-a22b", 8)):
        a100, h100, h200 = (profile(llm, gpu, tp) for gpu in ("A100", "H100", "H200"))
        assert (
            a100.decode_step_ms(32, 32 * 4000) > h100.decode_step_ms(32, 32 * 4000) > h200.decode_step_ms(32, 32 * 4000)
        )
        assert a100.prefill_ms(2048, 2048**2) > 1.8 * h100.prefill_ms(2048, 2048**2)


def test_profiles_cover_four_llms_three_gpus_three_engines() -> None:
    profiles = list_profiles()
    assert {p.llm for p in profiles} == {"llama3.1-8b", "llama3.1-70b", "qwen3-32b", "qwen3-235b-a22b"}
    assert {(p.gpu, p.engine) for p in profiles} == {
        (gpu, engine) for gpu in ("A100", "H100", "H200") for engine in ("vllm", "sglang", "trtllm")
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("llama3.1-70b", "B200", 4),
            r"gpu 'B200', tp 4, engine 'vllm'; for 'llama3.1-70b' there are: A100 tp4 sglang",
        ),
        (("llama3.1-7b", "H100", 4), r"did you mean 'llama3.1-70b'\? known: llama3.1-70b, llama3.1-8b"),
    ],
)
def test_unknown_profile_lists_what_exists(args: tuple[str, str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        profile(*args)


def test_unknown_cluster_lists_what_exists() -> None:
    with pytest.raises(InputError, match=r"cluster 'demoo': .* did you mean 'demo'\? known: demo, hetero-1-llama-70b"):
        load_cluster("demoo")


def test_a_path_loads_the_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((instances_dir() / "clusters" / "demo.toml").read_text(encoding="utf-8"))
    assert load_cluster(path) == load_cluster(str(path)) == load_cluster("demo")
