"""When to train again: what changed, how much, and what follows from it."""
