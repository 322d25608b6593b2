"""Glue: the only package that knows Prefect and MLflow. Between its stages travel paths and small frozen values."""
