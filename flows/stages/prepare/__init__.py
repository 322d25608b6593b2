"""The stage prepare-data."""
