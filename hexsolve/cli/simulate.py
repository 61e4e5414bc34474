"""`hexsolve simulate`: policies over one workload. Knows options and files; the studies do the work."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from hexsolve.cli.output import check_targets, console, json_bytes, progress, say, write_file
from hexsolve.cli.parse import parse_faults, parse_names, parse_scales
from hexsolve.errors import InputError

if TYPE_CHECKING:
    from hexsolve.study import Comparison


@click.command("simulate")
@click.option("--cluster", "cluster_source", required=True, metavar="NAME|FILE", help="See `hexsolve list clusters`.")
@click.option("--workload", "source", required=True, metavar="NAME|FILE", help="See `hexsolve list workloads`.")
@click.option("--rate", type=float, metavar="R", help="Workflows per second.")
@click.option("--load", type=float, metavar="RHO", help="Utilisation of the pool that binds, instead of a rate.")
@click.option("--workflows", type=int, metavar="N", help="How many (a name: 100, a file: all it has).")
@click.option("--arrivals", metavar="SPEC", help="poisson (default), bursty:CV, or burst (all at once).")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=("workflow-fcfs,hexagent,solver",),
    show_default=True,
    metavar="P[,P...]",
    help="See `hexsolve list policies`.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of workload, arrivals and noise.")
@click.option("--seeds", default=1, show_default=True, metavar="K", help="Run seeds S to S+K-1, paired.")
@click.option("--budget-ms", default=5.0, show_default=True, help="Planning budget of the solver, > 0.")
@click.option("--epoch-ms", default=0.0, show_default=True, help="Least time between two solver plans.")
@click.option("--deterministic", is_flag=True, help="Same result on every run: work limits, a fixed planning latency.")
@click.option("--predictor", default="oracle", show_default=True, metavar="SPEC", help="oracle, noisy:SIGMA, learned.")
@click.option(
    "--declared", default=0.0, show_default=True, metavar="SHARE", help="Workflows that tell their structure."
)
@click.option("--no-prefix-reuse", is_flag=True, help="Prefill replicas keep no prefixes.")
@click.option(
    "--fault", "faults", multiple=True, metavar="REPLICA@DOWN[-UP]", help="Such as D0-H200@20s-45s; repeatable."
)
@click.option("--alpha", default="1.5,2,3,5", show_default=True, metavar="LIST", help="SLO scales of the table.")
@click.option("--slo", default=2.0, show_default=True, metavar="α", help="SLO scale of the column `on time`.")
@click.option("--json", "json_target", metavar="FILE", help='Write everything as JSON; "-" is standard output.')
@click.option("--timeline", metavar="FILE", help="Write a Chrome trace of the first seed; opens in ui.perfetto.dev.")
@click.option("--plot", metavar="FILE", help="Write the attainment curves as PNG.")
@click.option("--quiet", is_flag=True, help="No progress and no words on standard error.")
@click.pass_context
def simulate_command(
    ctx: click.Context,
    cluster_source: str,
    source: str,
    rate: float | None,
    load: float | None,
    workflows: int | None,
    arrivals: str | None,
    policies: tuple[str, ...],
    seed: int,
    seeds: int,
    budget_ms: float,
    epoch_ms: float,
    deterministic: bool,
    predictor: str,
    declared: float,
    no_prefix_reuse: bool,
    faults: tuple[str, ...],
    alpha: str,
    slo: float,
    json_target: str | None,
    timeline: str | None,
    plot: str | None,
    quiet: bool,
) -> None:
    """Run a workload on a cluster under each policy and compare them.

    A shipped workload comes by name, anything else from a file. A file that records arrivals keeps them unless a rate,
    a load or --arrivals is given; else its workflows are drawn in whole passes, each in a seeded order of its own, as
    often as --workflows asks (repeated ones are called ID#2 and so on).

    Stretch is response time over H_w, the makespan of the workflow alone on the same cluster under hexagent. All
    policies of a seed see the same workflows, arrivals and prediction errors.
    """
    from hexsolve.catalog import load_cluster
    from hexsolve.sim import SimOptions
    from hexsolve.study import Comparison, EngineOptions, build_workload, known_policies, parse_arrivals

    names = known_policies(parse_names(policies))
    scales, slo = parse_scales(alpha), parse_scales(str(slo), "slo")[0]
    engine = EngineOptions(budget_ms, epoch_ms, deterministic, declared)
    choice = None if arrivals is None else parse_arrivals(arrivals)
    check_targets({"--json": json_target, "--timeline": timeline, "--plot": plot})
    cluster = load_cluster(cluster_source)
    comparison = Comparison(
        cluster=cluster,
        workloads={
            number: build_workload(
                source, workflows, number, cluster=cluster, arrivals=choice, rate_per_s=rate, load=load
            )
            for number in _seed_range(seed, seeds)
        },
        policies=names,
        engine=engine,
        options=SimOptions(faults=parse_faults(faults, cluster)),
        predictor=predictor,
        prefix_reuse=not no_prefix_reuse,
    )
    results = Results(comparison, scales, slo, quiet=quiet, record=timeline is not None)
    if json_target != "-":
        results.print_table()
    for target, content in results.files(_arguments(ctx), json_target, timeline, plot).items():
        write_file(target, content)
        if target != "-":
            say(f"wrote {target}", quiet=quiet)


def _seed_range(first: int, count: int) -> range:
    for option, value, least in (("seed", first, 0), ("seeds", count, 1)):
        if value < least:
            raise InputError(f"{option} = {value}: expected an integer >= {least}")
    return range(first, first + count)


def _arguments(ctx: click.Context) -> dict[str, Any]:
    """The options as they were given or defaulted, by the names a person typed."""
    names = {param.name: param.opts[0].lstrip("-") for param in ctx.command.params}
    return {names[name]: value for name, value in ctx.params.items() if value is not None}


class Results:
    """The runs of a comparison, and what is made of them."""

    def __init__(
        self, comparison: "Comparison", scales: tuple[float, ...], slo: float, *, quiet: bool, record: bool
    ) -> None:
        self.comparison, self.scales, self.slo = comparison, scales, slo
        with progress(quiet=quiet) as start:
            self.runs, self.recordings = comparison.run(start=start, record=record)

    def print_table(self) -> None:
        """To standard output."""
        from hexsolve.study.report import table

        console().print(table(self.runs, self.scales, self.slo))

    def markdown(self) -> str:
        """The table as Markdown."""
        from hexsolve.study.report import markdown

        return markdown(self.runs, self.scales, self.slo)

    def timeline(self) -> bytes:
        """The recordings as a Chrome trace."""
        from hexsolve.timeline import chrome_trace

        return json_bytes(chrome_trace(self.recordings, self.comparison.cluster), indent=None)

    def plot(self) -> bytes:
        """The attainment curves as PNG."""
        from hexsolve.plot import attainment_png

        return attainment_png(self.runs)

    def document(self, arguments: Mapping[str, Any]) -> bytes:
        """Everything as JSON."""
        from hexsolve.study.report import document

        inputs = self.comparison.cluster, self.comparison.workloads
        return json_bytes(document(self.runs, arguments, *inputs, self.scales, self.slo))

    def files(
        self, arguments: Mapping[str, Any], json_target: str | None, timeline: str | None, plot: str | None
    ) -> dict[str, bytes]:
        """Content by target, of those that were asked for; all is made before any is written."""
        made = {
            json_target: lambda: self.document(arguments),
            timeline: self.timeline,
            plot: self.plot,
        }
        return {target: make() for target, make in made.items() if target is not None}
