"""The servers and workers of one machine: start, stop, monitor, drain."""
