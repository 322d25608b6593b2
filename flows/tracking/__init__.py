"""What a run logs, on the disk and in MLflow."""
