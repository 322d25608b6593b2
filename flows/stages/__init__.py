"""The bodies of the stages: from a frozen configuration and input folders to an output folder and small values.

They know neither Prefect nor MLflow; numbers go to a ``RunLogger``, progress to a callback.
"""
