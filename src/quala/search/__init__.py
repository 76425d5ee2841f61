"""The search for length configurations: strategies, sampler, evaluators, budget selection."""
