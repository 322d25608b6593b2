"""The preset book."""

from __future__ import annotations

from flows.recipes.trainings import train_config
from flows.sources.book import Book
from flows.stages.classify.recipe import ClassifyStage
from flows.stages.instruct.recipe import InstructStage
from flows.stages.lora.recipe import LoraStage
from flows.stages.pipeline import Pipeline
from flows.stages.prepare.recipe import PrepareStage
from flows.stages.pretrain.recipe import PretrainStage
from gptcore.models import GPTConfig


def book() -> Pipeline:
    """The data of "Build a Large Language Model (From Scratch)" plus Tiny Shakespeare; half an hour on two cores."""
    return Pipeline(
        preset="book",
        prepare=PrepareStage(
            source=Book(),
            vocab_size=4096,
            min_chars=1,
            balance=True,
            corpus_split=(0.93, 0.07, 0.0),
            classify_split=(0.7, 0.1, 0.2),
            instruct_split=(0.85, 0.05, 0.1),
        ),
        pretrain=PretrainStage(
            model=GPTConfig(context_length=256, width=192, n_layers=4, n_heads=6, dropout=0.1),
            train=train_config(
                2e-3, epochs=4, batch_size=16, eval_every=100, sample_prompts=("Every effort moves you", "KING:")
            ),
        ),
        classify=ClassifyStage(train=train_config(1e-3, epochs=6, batch_size=8, eval_every=100)),
        instruct=InstructStage(
            template="alpaca", max_new_tokens=64, train=train_config(1e-3, epochs=8, batch_size=8, eval_every=100)
        ),
        lora=LoraStage(
            rank=16,
            alpha=32.0,
            also_train=("token_embedding",),
            classify=train_config(2e-3, epochs=6, batch_size=8, eval_every=100),
            instruct=train_config(3e-3, epochs=8, batch_size=8, eval_every=100),
        ),
    )
