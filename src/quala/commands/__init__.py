"""One module per verb of `quala`; each has `main(argv) -> exit code`."""
