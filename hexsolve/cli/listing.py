"""`hexsolve list`: what there is by name. Knows the registries; loads nothing heavy."""

from typing import Any

import click

from hexsolve.cli.output import console, json_bytes, write_file

KINDS = ("clusters", "workloads", "policies")


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), metavar="clusters|workloads|policies")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_command(kind: str, as_json: bool) -> None:
    """Show the clusters, workloads or policies that have a name."""
    rows = {"clusters": _clusters, "workloads": _workloads, "policies": _policies}[kind]()
    if as_json:
        write_file("-", json_bytes(rows))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=kind, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console().print(table)


def _clusters() -> list[dict[str, Any]]:
    from hexsolve.catalog import list_clusters

    return [
        {
            "name": info.name,
            "llm": info.llm,
            "prefill": info.num_prefill,
            "decode": info.num_decode,
            "description": info.description,
        }
        for info in list_clusters()
    ]


def _workloads() -> list[dict[str, Any]]:
    from hexsolve.generate import NAMES, default_arrivals

    return [
        {"name": name, "rate_per_s": default_arrivals(name).rate_per_s, "figures_from": _figures_from(name)}
        for name in NAMES
    ]


def _figures_from(name: str) -> str:
    from hexsolve.generate.figures import load_figures
    from hexsolve.generate.templates import TEMPLATES

    if name in TEMPLATES:
        figures = load_figures(name)
        return f"fitted to {figures.source} ({figures.licence})"
    return "published means (Autellix, arXiv 2502.13965; HexAGenT, arXiv 2605.16637)"


def _policies() -> list[dict[str, Any]]:
    from hexsolve.policies import POLICIES

    return [
        {"name": info.name, "label": info.label, "summary": info.summary, "source": info.source}
        for info in POLICIES.values()
    ]
