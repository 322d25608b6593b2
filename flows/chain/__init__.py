"""From a request to the outputs of its stages."""
