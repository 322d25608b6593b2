"""Examples that ``--help`` ends with; a test reads each of them with the command's own options."""

from __future__ import annotations

from collections.abc import Mapping

JUDGE_EXAMPLES = {
    "compare": (
        "gptworks judge compare RUN RUN",
        "gptworks judge compare RUN RUN --baseline-model base",
    ),
    "calibrate": (
        "gptworks judge calibrate --labels labels.csv --run RUN",
        "gptworks judge calibrate --labels scores-of-both.csv",
    ),
    "label": ("gptworks judge label --run RUN --out labels.csv --limit 60 --rater anna",),
}
"""Command below ``gptworks judge`` -> how it is called."""
EXAMPLES = {
    "pipeline": (
        "gptworks pipeline --preset demo --dry-run",
        "gptworks pipeline --preset book --data-dir data/",
        "gptworks pipeline --corpus texts/ --labelled reviews.csv --instructions faq.jsonl",
        "gptworks pipeline --preset book --init hf:openai-community/gpt2 --set pretrain.train.epochs=0.5",
        "gptworks pipeline --preset book --judge required --judge-model llama3",
    ),
    "prepare-data": (
        "gptworks prepare-data --corpus notes.txt --corpus texts/ --set prepare.vocab_size=8192",
        "gptworks prepare-data --labelled reviews.tsv --set prepare.balance=true",
    ),
    "pretrain": (
        "gptworks pretrain --set pretrain.model.n_layers=6 --set pretrain.train.epochs=2",
        "gptworks pretrain --corpus texts/ --seed 7",
        "gptworks pretrain --preset book --nproc 2",
    ),
    "join": ("gptworks join HOST:29500 --nproc 8",),
    "finetune-classifier": (
        "gptworks finetune-classifier --labelled reviews.csv --set classify.tune=last_blocks --set classify.n_blocks=1",
        "gptworks finetune-classifier --set classify.long_inputs=head+tail",
    ),
    "finetune-instruct": (
        "gptworks finetune-instruct --instructions faq.jsonl --set instruct.template=chatml",
        "gptworks finetune-instruct --preset book --set instruct.mask_prompt=false",
    ),
    "lora": ("gptworks lora --set lora.rank=16 --set lora.alpha=32 --set lora.targets=qkv,out",),
    "quantize": ("gptworks quantize --set quantize.group_size=64 --set quantize.max_increase_int4=0.05",),
    "evaluate": (
        "gptworks evaluate --judge off",
        "gptworks evaluate --judge required --set evaluate.concurrency=4",
    ),
    "generate": (
        'gptworks generate var/store/pretrain/KEY/run/checkpoint "Every effort moves you" --temperature 0.8 --top-k 50',
        'gptworks generate var/store/finetune-instruct/KEY/run/checkpoint "Explain what `numpy.mean` does."',
    ),
    "chat": ("gptworks chat var/store/finetune-instruct/KEY/run/checkpoint --temperature 0",),
    "serve": (
        "gptworks serve var/store/finetune-instruct/KEY/run/checkpoint",
        "gptworks serve var/store/finetune-instruct/KEY/run/checkpoint --port 11500 --slots 16 --token SECRET",
    ),
    "export": ("gptworks export var/store/pretrain/KEY/run/checkpoint my-gpt2 --to hf",),
    "runs": ("gptworks runs", "gptworks runs --stage finetune-classifier --limit 5"),
    "plan": (
        "gptworks plan --model gpt2-xl --gpus 8 --gpu h100 --price 3",
        "gptworks plan --model gpt2-small --width 1024 --heads 16 --gpu l4 --json",
    ),
    "judge": tuple(line for lines in JUDGE_EXAMPLES.values() for line in lines),
    "fake-ollama": ("gptworks fake-ollama --port 11434",),
    "doctor": ("gptworks doctor", "gptworks doctor --judge-model llama3@365c0bd3c000"),
}
"""Command -> how it is called."""


def epilog(command: str, examples: Mapping[str, tuple[str, ...]] = EXAMPLES) -> str:
    """The examples of a command, one to a line."""
    lines = examples[command]
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])
