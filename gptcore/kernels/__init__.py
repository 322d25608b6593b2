"""Fast inference on processors: C++ kernels, built once per machine, behind the layers' own interface."""

from gptcore.kernels.native import Native, native
from gptcore.kernels.prepare import is_prepared, prepare_for_inference

__all__ = ["Native", "is_prepared", "native", "prepare_for_inference"]
