"""Make a trained model smaller: calibrated quantization, pruning of weights and of structure, and what it cost.

Rounding to the nearest code needs no data and is a transform (``gptcore/transforms``); what is here looks at the
activations of calibration text first. Distillation is an objective (``gptcore/objectives/distill.py``).
"""

from gptcore.compress.calibrate import Calibration, Moments, calibrate
from gptcore.compress.fidelity import Fidelity, compare, resident_bytes
from gptcore.compress.gptq import gptq, gptq_matrix, output_error
from gptcore.compress.prune_structure import (
    prunable,
    prunable_sizes,
    prune_blocks,
    prune_heads,
    prune_hidden,
    smaller,
)
from gptcore.compress.prune_weights import Pattern, magnitude, share_of_zeros, wanda

__all__ = [
    "Calibration",
    "Fidelity",
    "Moments",
    "Pattern",
    "calibrate",
    "compare",
    "gptq",
    "gptq_matrix",
    "magnitude",
    "output_error",
    "prunable",
    "prunable_sizes",
    "prune_blocks",
    "prune_heads",
    "prune_hidden",
    "resident_bytes",
    "share_of_zeros",
    "smaller",
    "wanda",
]
