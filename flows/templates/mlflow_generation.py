"""What MLflow runs to load a language model; the checkpoint lies beside it."""

from mlflow.models import set_model

from flows.mlflow_models import TextGeneration

set_model(TextGeneration())
