"""The command line: `quala VERB`; each verb's module is imported on use.

`main` is the entry point. There is one module a verb.
"""

from quala.cli.entry import main

__all__ = ["main"]
