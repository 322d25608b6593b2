"""What training a GPT-2-class model needs: memory, communication, time, money. Arithmetic alone; nothing is run.

Units: bytes, seconds, FLOP; GB is 10^9 bytes. Formulas with worked examples: docs/scaling.md.
"""

from gptcore.scaling.devices import GPUS, Gpu, Precision
from gptcore.scaling.job import Job, Kind, Parameters, count_parameters, flops_per_token, usual_batch_size
from gptcore.scaling.memory import Memory, Remedy, activation_bytes, fit_job, fits, memory, remedies
from gptcore.scaling.speed import Communication, Cost, Pace, bandwidth, communication, cost, pace

__all__ = [
    "GPUS",
    "Communication",
    "Cost",
    "Gpu",
    "Job",
    "Kind",
    "Memory",
    "Pace",
    "Parameters",
    "Precision",
    "Remedy",
    "activation_bytes",
    "bandwidth",
    "communication",
    "cost",
    "count_parameters",
    "fit_job",
    "fits",
    "flops_per_token",
    "memory",
    "pace",
    "remedies",
    "usual_batch_size",
]
