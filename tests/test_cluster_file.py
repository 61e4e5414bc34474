"""Cluster files: defaults, overrides, three formats, own profiles, and one clear error for every mistake."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from hexsolve.catalog import library, profile
from hexsolve.cluster import Cluster
from hexsolve.cluster_file import read_cluster, read_cluster_text
from hexsolve.errors import InputError
from hexsolve.profile import DecodeTable, PrefillLine, PrefillTable

BASE = """
llm = "llama3.1-70b"
[[prefill]]
gpu = "H100"
tp = 4
count = 2
[[decode]]
gpu = "A100"
tp = 4
"""
OWN = """
[[profiles]]
gpu = "X"
tp = 1
prefill = { a_ms = 10, b_ms_per_token = 0.1, c_ms_per_area = 0 }
decode_table = { batch = [1, 8], context_tokens = [0, 4096], step_ms = [[10, 12], [20, 30]] }
[[decode]]
gpu = "X"
tp = 1
kv_capacity_tokens = 3200
"""


def parse(text: str) -> Cluster:
    return read_cluster_text(text, "my.toml", ".toml", library())


def test_groups_become_named_replicas_with_defaults() -> None:
    cluster = parse(BASE + '[[decode]]\ngpu = "H200"\ntp = 4\ncount = 2\n')
    assert [r.name for r in cluster.prefill] == ["P0-H100", "P1-H100"]
    assert [r.name for r in cluster.decode] == ["D0-A100", "D1-H200", "D2-H200"]
    first = cluster.decode[0]
    assert (first.bandwidth_gb_s, first.max_running, first.role, first.gpu, first.tp) == (
        40.0,
        256,
        "decode",
        "A100",
        4,
    )
    assert first.profile == profile("llama3.1-70b", "A100", 4, "vllm")
    assert first.kv_capacity_tokens == pytest.approx(470_000, rel=0.01)
    assert (cluster.name, cluster.link_latency_ms, dict(cluster.links)) == ("my", 2.0, {})


def test_group_overrides_file_and_file_overrides_defaults() -> None:
    head = 'name = "mine"\nengine = "sglang"\nbandwidth_gb_s = 9.5\nlink_latency_ms = 0\n'
    tail = 'engine = "trtllm"\nbandwidth_gb_s = 12\nmax_running = 7\nmax_batch_tokens = 99\nkv_capacity_tokens = 320\n'
    cluster = parse(head + BASE + tail + 'names = ["slow"]\n')
    assert (cluster.name, cluster.link_latency_ms) == ("mine", 0.0)
    assert (cluster.prefill[0].profile.engine, cluster.prefill[0].bandwidth_gb_s) == ("sglang", 9.5)
    slow = cluster.decode[0]
    assert (slow.name, slow.profile.engine, slow.bandwidth_gb_s) == ("slow", "trtllm", 12.0)
    assert (slow.max_running, slow.max_batch_tokens, slow.kv_capacity_tokens) == (7, 99, 320)


def test_toml_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    content = tomllib.loads(BASE)
    for suffix, text in ((".toml", BASE), (".yaml", yaml.safe_dump(content)), (".json", json.dumps(content))):
        (tmp_path / f"c{suffix}").write_text(text)
    digests = {read_cluster(path, library()).digest() for path in tmp_path.iterdir()}
    assert len(digests) == 1


def test_links_cap_single_pairs() -> None:
    cluster = parse(BASE + '[[links]]\nprefill = "P1-H100"\ndecode = "D0-A100"\nbandwidth_gb_s = 3\n')
    assert cluster.pair_bandwidth_gb_s().tolist() == [[40.0], [3.0]]


def test_own_profile_of_an_unknown_gpu() -> None:
    replica = parse(BASE + OWN).decode[1]
    assert replica.profile.prefill == PrefillLine(10.0, 0.1, 0.0)
    assert replica.profile.decode == DecodeTable((1, 8), (0, 4096), ((10, 12), (20, 30)))
    assert (replica.profile.kv_bytes_per_token, replica.kv_capacity_tokens) == (327_680, 3200)


def test_own_profile_wins_over_the_packaged_one_and_may_be_a_prefill_table() -> None:
    own = """
[[profiles]]
gpu = "A100"
tp = 4
kappa_decode = 1.0
prefill_table = { new_tokens = [1, 1000], prefix_tokens = [0, 1000], latency_ms = [[5, 5], [50, 60]] }
decode = { a_ms = 7, b_ms_per_call = 1, c_ms_per_token = 0 }
"""
    found = parse(BASE + own).decode[0].profile
    assert isinstance(found.prefill, PrefillTable)
    assert found.decode_step_ms(3, 0.0) == pytest.approx(10.0)


def test_profile_files_are_relative_to_the_cluster_file(tmp_path: Path) -> None:
    entry = OWN.split("[[decode]]")[0].replace("10, 12", "11, 12")
    (tmp_path / "mine.toml").write_text('llm = "llama3.1-70b"\n' + entry)
    (tmp_path / "c.toml").write_text('profile_files = ["mine.toml"]\n' + BASE + OWN[OWN.index("[[decode]]") :])
    decode = read_cluster(tmp_path / "c.toml", library()).decode[1].profile.decode
    assert isinstance(decode, DecodeTable)
    assert decode.step_ms[0] == (11, 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + '[[decode]]\ngpu = "A100"\ntp = "x"\n', 'my.toml: decode[1].tp = "x": expected an integer >= 1'),
        (BASE + "count = 0\n", "my.toml: decode[0].count = 0: expected an integer >= 1"),
        (BASE + "bandwidth_gb_s = -1\n", "my.toml: decode[0].bandwidth_gb_s = -1: expected a number > 0"),
        (BASE + "bandwidth_gb_s = inf\n", "my.toml: decode[0]: replica 'D0-A100': bandwidth_gb_s: expected a finite"),
        (BASE + "kv_capacity_tokens = 8\n", "decode[0].kv_capacity_tokens = 8: expected an integer >= 16"),
        (BASE + "max_runing = 3\n", "decode[0]: unknown key 'max_runing': did you mean 'max_running'?"),
        ("engin = 'vllm'\n" + BASE, "my.toml: unknown key 'engin': did you mean 'engine'?"),
        ("engine = 3\n" + BASE, "my.toml: engine = 3: expected a non-empty string"),
        (BASE.split("[[decode]]")[0], "my.toml: missing key 'decode': expected a list with at least 1 entry"),
        ("decode = []\n" + BASE.split("[[decode]]")[0], "my.toml: decode = []: expected a list with at least 1 entry"),
        (BASE.replace("llama3.1-70b", "llama"), "prefill[0]: no profile for llm 'llama'"),
        (
            BASE.replace("A100", "A10"),
            "decode[0]: no profile for llm 'llama3.1-70b', gpu 'A10', tp 4, engine 'vllm'; for",
        ),
        (BASE + 'names = ["P0-H100"]\n', "my.toml: decode: replica name 'P0-H100': expected once, got twice"),
        (BASE + 'names = ["a", "b"]\n', "my.toml: decode[0].names: expected 1 names (count), got 2"),
        ("llm = \n", "my.toml: expected well-formed toml"),
        (BASE + OWN.replace("kv_capacity_tokens = 3200", ""), "decode[1]: kv_capacity_tokens: expected a value"),
        (
            BASE + OWN.replace("[10, 12]", "[30, 12]"),
            "profiles[0]: decode table: step_ms[0][1] = 12.0: expected no less",
        ),
        (
            BASE + OWN.replace("[10, 12]", "[30, 'q']"),
            'profiles[0].decode_table.step_ms[0][1] = "q": expected a number > 0',
        ),
        (
            BASE + OWN.replace("decode_table =", "#"),
            "profiles[0]: expected exactly one of the keys 'decode' and 'decode_table'",
        ),
        (BASE.replace("llama3.1-70b", "new") + OWN, "my.toml: profiles[0]: missing key 'kv_bytes_per_token'"),
        (
            BASE + '[[links]]\nprefill = "P0-H10"\ndecode = "D0-A100"\nbandwidth_gb_s = 1\n',
            "my.toml: links[0].prefill = 'P0-H10': no such prefill replica; did you mean 'P0-H100'?",
        ),
        (
            BASE + '[[links]]\nprefill = "P0-H100"\ndecode = "D0-A100"\nbandwidth_gb_s = 1\n' * 2,
            "my.toml: links[1]: expected each pair once",
        ),
        ('profile_files = ["a.toml"]\n' + BASE, "my.toml: profile_files: expected none outside a file"),
    ],
)
def test_mistakes_are_named_with_file_and_field(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse(text)


def test_weights_that_do_not_fit_are_named() -> None:
    text = 'llm = "qwen3-235b-a22b"\n' + BASE.split("\n", 2)[2]
    with pytest.raises(
        InputError, match=r"prefill\[0\]: tp = 4: expected more GPUs, as the weights of 'qwen3-235b-a22b'"
    ):
        parse(text)


@pytest.mark.parametrize(("text", "shown"), [("3", "3"), ("", "null"), ("- a", '["a"]')])
def test_content_that_is_no_table_is_named(text: str, shown: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"my.yaml: content = {shown}: expected a table")):
        read_cluster_text(text, "my.yaml", ".yaml", library())


def test_missing_and_strange_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.toml: expected a readable UTF-8 text file"):
        read_cluster(tmp_path / "none.toml", library())
    (tmp_path / "c.ini").write_text(BASE)
    with pytest.raises(InputError, match=r"c.ini: expected a file name that ends in one of .toml"):
        read_cluster(tmp_path / "c.ini", library())
