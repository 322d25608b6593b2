"""The stage pretrain."""

from flows.stages.registry import Stage as _Stage

STAGE = _Stage(
    name="pretrain",
    room=__name__,
    title="Samples",
    heading="Samples during pretraining",
    sentence="Train a base model on the corpus.",
    about=(
        "Base models. The step of a metric is the optimizer step. Compare `val/loss` only where the tag "
        "`gptworks.data` is the same, since another tokenizer makes other tokens."
    ),
    version="1",
    needs=("prepare-data",),
    recipes=("pretrain",),
    examples=(
        "gptworks pretrain --set pretrain.model.n_layers=6 --set pretrain.train.epochs=2",
        "gptworks pretrain --corpus texts/ --seed 7",
        "gptworks pretrain --preset book --nproc 2",
    ),
    role="base",
    curves=(("run", "Pretraining"),),
)
"""Its description."""
