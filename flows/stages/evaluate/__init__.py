"""The stage evaluate."""

from flows.stages.registry import Stage as _Stage

STAGE = _Stage(
    name="evaluate",
    room=__name__,
    title="Evaluation",
    heading="Evaluation of the responses",
    sentence="Score the held-out answers by overlap and, where one answers, by the judge.",
    about=(
        "Scores of the held-out answers: overlap, and the judge where one answered. Compare runs whose tag "
        "`gptworks.judge.group` is the same; `gptworks compare RUN RUN` does it item by item."
    ),
    version="3",
    needs=("finetune-instruct", "lora"),
    recipes=("evaluate",),
    examples=(
        "gptworks evaluate --judge off",
        "gptworks evaluate --judge required --set evaluate.concurrency=4",
        "gptworks evaluate --set evaluate.judge_panel=mistral,qwen2.5 --set evaluate.pairwise=true",
    ),
    parts=("instruct",),
    abilities=("generate",),
    measures=True,
)
"""Its description."""
