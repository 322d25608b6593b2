"""What a run says of itself, on the disk and in MLflow."""
