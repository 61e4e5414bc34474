"""The command line. Knows commands, exit codes and how to say what went wrong; decides and simulates nothing."""

from hexsolve.cli.app import main

__all__ = ["main"]
