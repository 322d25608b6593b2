"""The servers and workers of one machine: start, stop, look after, empty."""
