"""Every stage, in the order of the chain: one line each, and behind them those of installed components."""

from flows.stages import classify, compress, evaluate, instruct, lora, prepare, pretrain
from flows.stages.registry import REGISTERED, complete, register
from gptcore.components import load_components

for _room in (
    prepare,
    pretrain,
    classify,
    instruct,
    lora,
    compress,
    evaluate,
):
    register(_room.STAGE)
load_components()
complete()
STAGES = REGISTERED
"""Every stage by name."""
