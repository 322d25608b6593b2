"""Parts for testing against the evaluation: a protocol-faithful Ollama server that needs no model."""
