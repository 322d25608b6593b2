"""Decoding: prompts become answers, many at a time."""

from gptcore.generation.decodable import Decodable, decodable
from gptcore.generation.generator import Event, Generator
from gptcore.generation.request import Answer, Finish, Request, Token
from gptcore.generation.sampling import Sampling, narrow
from gptcore.generation.speculative import Speculated, speculate

__all__ = [
    "Answer",
    "Decodable",
    "Event",
    "Finish",
    "Generator",
    "Request",
    "Sampling",
    "Speculated",
    "Token",
    "decodable",
    "narrow",
    "speculate",
]
