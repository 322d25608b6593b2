"""The stage compress."""

from flows.stages.registry import Stage as _Stage

STAGE = _Stage(
    name="compress",
    room=__name__,
    title="Compression",
    heading="Compression",
    sentence="Compress the instruction-tuned model by several methods, each checked by a quality gate.",
    about=(
        "Compressed forms of a model against the original: bytes, perplexity, accuracy, tokens a second, each "
        "checked by its gate. Metrics without a curve are of the whole run."
    ),
    version="1",
    needs=("prepare-data", "pretrain", "finetune-classifier", "finetune-instruct"),
    recipes=("compress", "classify", "instruct"),
    examples=(
        "gptworks compress --set compress.methods=int8,int4,gptq,nf4 --set compress.group_size=64",
        "gptworks compress --preset book --set compress.methods=hidden+tune,depth+distill,depth+distill+int8",
    ),
    abilities=("generate",),
    role="compressed",
)
"""Its description."""
