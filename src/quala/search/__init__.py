"""The search for length configurations: strategies, sampler, evaluators, choice."""
