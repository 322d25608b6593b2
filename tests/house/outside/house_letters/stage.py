"""A stage that lives outside the tree: how often a letter stands in the answers."""

from flows.stages.registry import Stage, register

STAGE = register(
    Stage(
        name="count-letters",
        room="house_letters",
        title="Letters",
        heading="Letters of the answers",
        sentence="Count a letter in the held-out answers.",
        about="How often a letter stands in the answers of a model.",
        version="1",
        needs=("finetune-instruct",),
        recipes=("letters",),
        examples=("gptworks count-letters --preset tiny --set letters.letter=a",),
        parts=("instruct",),
        abilities=("generate",),
        trains=False,
        measures=True,
    )
)
"""Its description."""
