"""Coverage of a set, what it misses, and the plan to fill it."""
