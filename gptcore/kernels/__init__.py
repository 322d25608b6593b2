"""Fast inference on processors: C++ kernels, built once per machine, behind the layers' own interface."""

from gptcore.kernels.build import build_library
from gptcore.kernels.native import Native, load_kernels
from gptcore.kernels.prepare import is_prepared, prepare_for_inference

__all__ = ["Native", "build_library", "is_prepared", "load_kernels", "prepare_for_inference"]
