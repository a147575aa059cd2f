"""Downstream: what a model learns from a user's data, task by task, and which of several sets teaches it better."""
