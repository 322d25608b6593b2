"""The stage finetune-instruct."""

from flows.stages.registry import Stage as _Stage

STAGE = _Stage(
    name="finetune-instruct",
    room=__name__,
    title="Responses",
    heading="Responses before and after fine-tuning",
    sentence="Fine-tune the base model for instructions and answer the held-out ones.",
    about=(
        "Models that answer instructions; `responses.json` holds the held-out answers. The step of a metric is "
        "the optimizer step."
    ),
    version="1",
    needs=("prepare-data", "pretrain"),
    recipes=("instruct",),
    examples=(
        "gptworks finetune-instruct --instructions faq.jsonl --set instruct.template=chatml",
        "gptworks finetune-instruct --preset book --set instruct.mask_prompt=false",
    ),
    parts=("instruct",),
    abilities=("generate",),
    role="instruct",
    curves=(("run", "Instructions"),),
)
"""Its description."""
