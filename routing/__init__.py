"""Which model answers: facts, policy, dispatch, and what outcomes teach."""
