"""The stage finetune-classifier."""

from flows.stages.registry import Stage as _Stage

STAGE = _Stage(
    name="finetune-classifier",
    room=__name__,
    title="Classification",
    heading="Classification",
    sentence="Fine-tune the base model for classification, with a TF-IDF baseline beside it.",
    about=(
        "Classifiers, with a TF-IDF baseline beside each (`baseline/tfidf_accuracy`). The step of a metric is the"
        " optimizer step."
    ),
    version="1",
    needs=("prepare-data", "pretrain"),
    recipes=("classify",),
    examples=(
        "gptworks finetune-classifier --labelled reviews.csv --set classify.tune=last_blocks --set classify.n_blocks=1",
        "gptworks finetune-classifier --set classify.long_inputs=head+tail",
    ),
    parts=("classify",),
    abilities=("summary",),
    role="classifier",
    curves=(("run", "Classification"),),
)
"""Its description."""
