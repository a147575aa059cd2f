"""Experiments: methods side by side at equal budgets, each seed with data, samples and fit of its own."""
