"""The command line: `quala VERB`; each verb's module is imported on use."""
