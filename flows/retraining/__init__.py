"""When to retrain: what changed, how much, and what follows from it."""
