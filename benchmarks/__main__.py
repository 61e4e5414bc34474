"""`python -m benchmarks list`, `python -m benchmarks run NAME… | --all [--smoke]`."""

import importlib
import json
import pkgutil
import time

import click

import benchmarks
from benchmarks.registry import REGISTRY, table


def _load() -> None:
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name.startswith("bench_"):
            importlib.import_module(f"benchmarks.{module.name}")


@click.group()
def main() -> None:
    """Measure hexsolve."""
    _load()


@main.command("list")
def list_() -> None:
    """Name every benchmark and the question it answers."""
    for item in REGISTRY.values():
        click.echo(f"{item.name:<20} {item.question}")


@main.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Run every benchmark.")
@click.option("--smoke", is_flag=True, help="Tiny sizes: does it still run?")
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON lines instead of tables.")
def run(names: tuple[str, ...], everything: bool, smoke: bool, as_json: bool) -> None:
    """Run benchmarks by NAME and print their rows."""
    chosen = list(REGISTRY) if everything else list(names)
    unknown = sorted(set(chosen) - set(REGISTRY))
    if unknown or not chosen:
        raise click.UsageError(f"benchmarks {unknown or '(none named)'}: expected some of {', '.join(REGISTRY)}")
    for name in chosen:
        started = time.perf_counter()
        rows = REGISTRY[name].run(smoke)
        if as_json:
            for row in rows:
                click.echo(json.dumps({"benchmark": name, **row}))
        else:
            click.echo(f"\n{name} ({time.perf_counter() - started:.1f} s)\n\n{table(rows)}")


main()
