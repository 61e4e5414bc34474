"""The `hexsolve` command: finds subcommands by name and turns errors into one line and an exit code.

Exit codes: 0 done, 1 unexpected failure, 2 bad input (nothing written), 130 interrupted. Subcommands are imported when
they are asked for, so that `hexsolve --help` is quick.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from hexsolve.datafile import nearest
from hexsolve.errors import InputError

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_COMMANDS = {
    "demo": "hexsolve.cli.demo",
    "import": "hexsolve.cli.files",
    "list": "hexsolve.cli.listing",
    "place": "hexsolve.cli.place",
    "simulate": "hexsolve.cli.simulate",
    "study": "hexsolve.cli.study",
    "validate": "hexsolve.cli.files",
}


class App(click.Group):
    """Subcommands by name, errors by exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name]), f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise InputError(f"command {args[0]!r}: no such command; {nearest(args[0], tuple(_COMMANDS))}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run a command line and exit with its code."""
        extra |= {"standalone_mode": False, "prog_name": "hexsolve"}
        sys.exit(self._exit_code(args, *rest, **extra))

    def _exit_code(self, *args: Any, **extra: Any) -> int:
        try:
            code = super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "")
            return BAD_INPUT
        except click.Abort:
            return _fail("interrupted", INTERRUPTED)
        except (InputError, click.ClickException) as error:
            return _fail(error.format_message() if isinstance(error, click.ClickException) else str(error), BAD_INPUT)
        except Exception as error:
            if os.environ.get("HEXSOLVE_TRACEBACK"):
                raise
            text = f"{type(error).__name__}: {error}"
            return _fail(f"{text} (not expected; HEXSOLVE_TRACEBACK=1 shows where)", FAILED)
        return code if isinstance(code, int) else OK


def _fail(text: str, code: int) -> int:
    click.echo(f"error: {' '.join(text.split())}", err=True)
    return code


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        try:
            click.echo(f"hexsolve {version('hexsolve')}")
        except PackageNotFoundError:
            click.echo("hexsolve (not installed, run from a source tree)")
        ctx.exit()


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
def app() -> None:
    """Place the LLM calls of agentic workflows on a heterogeneous prefill-decode cluster.

    Begin with `hexsolve demo`, then `hexsolve list workloads` and `hexsolve simulate --help`.
    """


def main(args: Sequence[str] | None = None) -> None:
    """The console script."""
    try:
        app.main(args)
    except SystemExit as finished:
        if finished.code == INTERRUPTED:
            # An interrupted CP-SAT solve leaves a native thread behind, which aborts an orderly exit (9.15).
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
