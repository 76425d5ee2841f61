"""quala: small, length-adaptive, integer transformer encoders for any latency budget."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import what is asked for: `quala.load` needs the runtime, `quala --help` does not."""
    if name == "load":
        from quala.runtime.answerer import load

        return load
    raise AttributeError(f"module `quala` has no attribute `{name}`")
