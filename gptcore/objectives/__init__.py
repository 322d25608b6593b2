"""What a model is trained for: a batch and a model to a summed loss."""

from gptcore.objectives.base import Objective
from gptcore.objectives.classify import Classify
from gptcore.objectives.distill import Distill
from gptcore.objectives.next_token import NextToken

__all__ = ["Classify", "Distill", "NextToken", "Objective"]
