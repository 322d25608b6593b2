"""What MLflow runs to load a classifier; the checkpoint lies beside it."""

from mlflow.models import set_model

from flows.mlflow_models import Classification

set_model(Classification())
