"""The command line: `quala VERB`; each verb's module is imported on use."""

from quala.cli.entry import main

__all__ = ["main"]
