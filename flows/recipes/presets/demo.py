"""The preset demo."""

from __future__ import annotations

from flows.recipes.trainings import train_config
from flows.sources.demo import Demo
from flows.stages.classify.recipe import ClassifyStage
from flows.stages.instruct.recipe import InstructStage
from flows.stages.lora.recipe import LoraStage
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.recipe import PrepareStage
from flows.stages.pretrain.recipe import PretrainStage
from gptcore.models import GPTConfig


def demo() -> Pipeline:
    """Docstrings of the installed packages; minutes on two cores."""
    return Pipeline(
        preset="demo",
        prepare=PrepareStage(source=Demo(), vocab_size=4096, corpus_split=(0.8, 0.03, 0.17)),
        pretrain=PretrainStage(
            model=GPTConfig(context_length=160, width=128, n_layers=2, n_heads=4),
            train=train_config(
                1e-3, epochs=0.35, batch_size=12, eval_every=100, sample_prompts=("function numpy.", "Return the")
            ),
        ),
        classify=ClassifyStage(train=train_config(1e-3, epochs=2, batch_size=16, eval_every=200, keep="last")),
        instruct=InstructStage(
            template="short",
            max_new_tokens=40,
            max_responses=96,
            train=train_config(2e-3, epochs=2, batch_size=16, eval_every=150),
        ),
        lora=LoraStage(
            rank=8,
            classify=train_config(5e-3, epochs=2, batch_size=16, eval_every=200, keep="last"),
            instruct=train_config(5e-3, epochs=1, batch_size=16, eval_every=150),
        ),
    )
