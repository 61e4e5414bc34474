"""What studies declare: true structure, typical lengths of other workflows only."""

import pytest

from hexsolve.catalog import load_cluster
from hexsolve.errors import InputError
from hexsolve.study import EngineOptions, build_workload
from hexsolve.study.hints import declare_mutually, declare_truth, typical_lengths
from hexsolve.study.run import run_policy, standalone_ms

CLUSTER = load_cluster("demo")
WORKLOAD = build_workload("text2sql", 12, 100, cluster=CLUSTER, load=1.2)


def test_structure_is_told_as_it_is_and_lengths_as_the_other_half_has_them():
    hints = declare_mutually(WORKLOAD)
    means = [typical_lengths(WORKLOAD.workflows[1::2]), typical_lengths(WORKLOAD.workflows[::2])]
    told = 0
    for i, workflow in enumerate(WORKLOAD.workflows):
        by_name = {call.request_id: call for call in workflow.calls}
        for declared in hints[workflow.workflow_id]:
            call = by_name[declared.request_id]
            tokens, outputs, delay_ms = means[i % 2][workflow.workflow_class, call.kind]
            assert declared.dependencies == call.dependencies
            assert declared.output_tokens == max(1, round(outputs))
            assert declared.input_tokens == max(1, round(tokens))
            assert declared.delay_ms == delay_ms
            told += 1
    assert told > 0.9 * sum(len(workflow.calls) for workflow in WORKLOAD.workflows)


def test_a_share_of_the_workflows_tells():
    assert 0 < len(declare_mutually(WORKLOAD, share=0.5)) < len(WORKLOAD.workflows)
    assert declare_mutually(WORKLOAD, share=0.0) == {}


def test_a_run_uses_what_is_declared_and_hexagent_does_not():
    alone_ms = standalone_ms(CLUSTER, WORKLOAD)

    def stretches(policy, declared):
        options = EngineOptions(5.0, deterministic=True, declared=declared)
        run = run_policy(CLUSTER, WORKLOAD, policy, alone_ms, engine_options=options)
        assert not run.anomalies
        return run.stretches.tolist()

    assert stretches("hexagent", 1.0) == stretches("hexagent", 0.0)
    assert stretches("lookahead", 1.0) != stretches("lookahead", 0.0)


def test_a_clairvoyant_run_knows_what_will_be():
    truth = declare_truth(WORKLOAD)
    for workflow in WORKLOAD.workflows:
        told = {call.request_id: call for call in truth[workflow.workflow_id]}
        assert set(told) == {call.request_id for call in workflow.calls}
        for call in workflow.calls:
            assert told[call.request_id].output_tokens == call.output_tokens
            assert told[call.request_id].delay_ms == call.delay_ms
    alone_ms = standalone_ms(CLUSTER, WORKLOAD)
    runs = [
        run_policy(CLUSTER, WORKLOAD, "lookahead", alone_ms, engine_options=options).stretches.tolist()
        for options in (EngineOptions(declared=1.0), EngineOptions(clairvoyant=True))
    ]
    assert runs[0] != runs[1]


@pytest.mark.parametrize("declared", [-0.1, 1.5, float("nan")])
def test_a_share_is_between_nothing_and_all(declared):
    with pytest.raises(InputError, match="expected a share in 0"):
        EngineOptions(declared=declared)
