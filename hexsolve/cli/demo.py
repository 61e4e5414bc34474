"""`hexsolve demo`: the main job on what is shipped, in under a minute. Knows one comparison and three files."""

import click

from hexsolve.cli.output import check_targets, say, write_file

CLUSTER, WORKLOAD, LOAD, NUM_WORKFLOWS, SEEDS = "demo", "text2sql", 1.0, 30, (1, 2, 3)
POLICIES = ("round-robin", "workflow-fcfs", "hexagent", "solver")
BUDGET_MS, EPOCH_MS = 5.0, 0.0
TABLE, PLOT, TIMELINE = "demo-table.md", "demo-attainment.png", "demo-timeline.json"


@click.command("demo")
@click.option("--quiet", is_flag=True, help="No progress and no words on standard error.")
def demo_command(quiet: bool) -> None:
    """Compare two baselines, hexagent and the solver on text-to-SQL agents; write table, plot and timeline here.

    Workflows are generated from figures fitted to a real text-to-SQL trace; the cluster has two prefill and two decode
    replicas of different speed and is loaded to its capacity. Solving is deterministic, so the result is the same on
    every machine.
    """
    from hexsolve.catalog import load_cluster
    from hexsolve.cli.simulate import Results
    from hexsolve.study import Comparison, EngineOptions, build_workload

    for target in (TABLE, PLOT, TIMELINE):
        check_targets({"demo:": target})
    cluster = load_cluster(CLUSTER)
    workloads = {seed: build_workload(WORKLOAD, NUM_WORKFLOWS, seed, cluster=cluster, load=LOAD) for seed in SEEDS}
    engine = EngineOptions(BUDGET_MS, EPOCH_MS, deterministic=True)
    comparison = Comparison(cluster, workloads, POLICIES, engine)
    results = Results(comparison, (1.5, 2.0, 3.0, 5.0), 2.0, quiet=quiet, record=True)
    results.print_table()
    files = {TABLE: results.markdown().encode(), PLOT: results.plot(), TIMELINE: results.timeline()}
    for target, content in files.items():
        write_file(target, content)
    say(f"wrote {', '.join(files)}", quiet=quiet)
    say(f"To see the timeline, open https://ui.perfetto.dev and drop {TIMELINE} on it.", quiet=quiet)
