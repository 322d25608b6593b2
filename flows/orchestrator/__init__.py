"""Prefect: the run of a flow, its temporary server, and who is running."""
