"""The stage compress."""
