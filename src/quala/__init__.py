"""quala: small, length-adaptive, integer transformer encoders for any latency budget."""

__version__ = "0.1.0"
