"""Versions of a model and who is the champion: kept in MLflow's registry, moved under a lock, traced to the sources."""
