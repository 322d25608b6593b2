"""What exported MLflow models import: models written once name this module, so it stays where it is."""

from flows.export.mlflow_models import Classification, TextGeneration

__all__ = ["Classification", "TextGeneration"]
