"""The page of a pipeline run."""
