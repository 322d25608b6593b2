"""Forms of a model that need a service."""
