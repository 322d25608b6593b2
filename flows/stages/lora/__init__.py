"""The stage lora."""

from flows.stages.registry import Stage as _Stage

STAGE = _Stage(
    name="lora",
    room=__name__,
    title="LoRA",
    heading="LoRA against full fine-tuning",
    sentence="Adapt the base model with LoRA for each task that has data.",
    about=(
        "Low-rank adapters, one training for each task, under `classify/` and `instruct/`. The step of a metric "
        "is the optimizer step."
    ),
    version="2",
    needs=("prepare-data", "pretrain"),
    recipes=("lora", "classify", "instruct"),
    examples=("gptworks lora --set lora.rank=16 --set lora.alpha=32 --set lora.targets=qkv,out",),
    parts=("classify", "instruct"),
    curves=(("classify", "LoRA, classification"), ("instruct", "LoRA, instructions")),
)
"""Its description."""
