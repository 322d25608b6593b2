"""Judged runs: compared, labelled, calibrated."""
