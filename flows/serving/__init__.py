"""A checkpoint as a server that speaks OpenAI's and Ollama's protocols."""

from flows.serving.app import build_app
from flows.serving.config import ServeConfig
from flows.serving.served import Served
from flows.serving.server import Server

__all__ = ["ServeConfig", "Served", "Server", "build_app"]
