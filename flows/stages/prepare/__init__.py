"""The stage prepare-data."""

from flows.stages.registry import Stage as _Stage

STAGE = _Stage(
    name="prepare-data",
    room=__name__,
    title="Data",
    heading="What was run, on which data",
    sentence="Clean, deduplicate and split texts and rows; train a tokenizer; write token shards and a ledger.",
    about=(
        "Cleaning, deduplication, splits, leaks, tokenizer and token shards. `ledger.json` in the artifacts says "
        "what became of every document and row."
    ),
    version="2",
    needs=(),
    recipes=("prepare",),
    examples=(
        "gptworks prepare-data --corpus notes.txt --corpus texts/ --set prepare.vocab_size=8192",
        "gptworks prepare-data --labelled reviews.tsv --set prepare.balance=true",
    ),
    trains=False,
)
"""Its description."""
