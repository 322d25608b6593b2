"""Examples that ``--help`` ends with; a test reads each of them with the command's own options."""

from __future__ import annotations

from collections.abc import Mapping

from flows.stages.every import STAGES

JUDGE_EXAMPLES = {
    "compare": (
        "gptworks judge compare RUN RUN",
        "gptworks judge compare RUN RUN --baseline-model base",
        "gptworks judge compare RUN RUN --pairwise",
    ),
    "rank": ("gptworks judge rank RUN RUN RUN:base --concurrency 4",),
    "calibrate": (
        "gptworks judge calibrate --labels labels.csv --run RUN",
        "gptworks judge calibrate --labels labels.csv --run RUN --baseline RUN:base --baseline-labels base.csv",
        "gptworks judge calibrate --labels scores-of-both.csv",
    ),
    "label": ("gptworks judge label --run RUN --out labels.csv --limit 60 --rater anna",),
}
"""Command below ``gptworks judge`` -> how it is called."""
DATA_EXAMPLES = {
    "add": (
        "gptworks data add answers.jsonl reviews.csv",
        "gptworks data add texts/ --kind corpus",
    ),
    "remove": ("gptworks data remove 3f9a01c2",),
    "list": ("gptworks data list",),
}
"""Command below ``gptworks data`` -> how it is called."""
EXAMPLES = {
    **{stage.name: stage.examples for stage in STAGES.values()},
    "pipeline": (
        "gptworks pipeline --preset demo --dry-run",
        "gptworks pipeline --preset book --data-dir data/",
        "gptworks pipeline --corpus texts/ --labelled reviews.csv --instructions faq.jsonl",
        "gptworks pipeline --preset book --init hf:openai-community/gpt2 --set pretrain.train.epochs=0.5",
        "gptworks pipeline --preset book --judge required --judge-model llama3",
    ),
    "join": ("gptworks join HOST:29500 --nproc 8",),
    "generate": (
        'gptworks generate var/store/pretrain/KEY/run/checkpoint "Every effort moves you" --temperature 0.8 --top-k 50',
        'gptworks generate var/store/finetune-instruct/KEY/run/checkpoint "Explain what `numpy.mean` does."',
        'gptworks generate var/store/pretrain/KEY/run/checkpoint "Every effort" --draft SMALLER/checkpoint',
    ),
    "chat": ("gptworks chat var/store/finetune-instruct/KEY/run/checkpoint --temperature 0",),
    "export": (
        "gptworks export var/store/pretrain/KEY/run/checkpoint my-gpt2 --to hf",
        "gptworks export var/store/finetune-instruct/KEY/run/checkpoint my-gguf --to gguf --packing q8_0",
        "gptworks export var/store/finetune-instruct/KEY/run/checkpoint my-model --to ollama",
    ),
    "runs": ("gptworks runs", "gptworks runs --stage finetune-classifier --limit 5", "gptworks runs sync"),
    "compare": ("gptworks compare RUN RUN", "gptworks compare RUN RUN --no-keep"),
    "sweep": (
        "gptworks sweep pretrain --vary pretrain.train.optimizer.lr=1e-3,3e-3 --vary seed=1,2 --workers 2",
        "gptworks sweep pretrain --vary pretrain.train.optimizer.lr=1e-4:1e-2:log --trials 20 --runner dask",
        "gptworks sweep finetune-classifier --vary classify.n_blocks=1,2 --objective val/accuracy --maximize",
    ),
    "serve": (
        "gptworks serve var/store/finetune-instruct/KEY/run/checkpoint",
        "gptworks serve var/store/finetune-instruct/KEY/run/checkpoint --port 11500 --slots 16 --token SECRET",
    ),
    "plan": (
        "gptworks plan --model gpt2-xl --gpus 8 --gpu h100 --price 3",
        "gptworks plan --model gpt2-small --width 1024 --heads 16 --gpu l4 --json",
    ),
    "judge": tuple(line for lines in JUDGE_EXAMPLES.values() for line in lines),
    "data": tuple(line for lines in DATA_EXAMPLES.values() for line in lines),
    "retrain": (
        "gptworks retrain --preset demo --dry-run",
        "gptworks retrain --preset demo --policy min_new_rows=20 --gate require_approval=true",
        "gptworks retrain --preset book --set seed=2",
    ),
    "promote": ('gptworks promote 4 --model gptworks-demo --reason "answers read by two of us"',),
    "rollback": ('gptworks rollback --model gptworks-demo --reason "wrong answers about prices"',),
    "lineage": (
        "gptworks lineage gptworks-demo",
        "gptworks lineage gptworks-demo/3 --offline",
    ),
    "fake-ollama": ("gptworks fake-ollama --port 11434",),
    "up": ("gptworks up", "gptworks up --prefect-port 0 --mlflow-port 0 --limit 2"),
    "down": ("gptworks down",),
    "status": ("gptworks status",),
    "deploy": ("gptworks deploy", "gptworks deploy --type docker --limit 4"),
    "worker": ("gptworks worker", "gptworks worker --type kubernetes --with-healthcheck"),
    "drain": ("gptworks drain --stop", "gptworks drain --seconds 3600", "gptworks drain --resume"),
    "reconcile": ("gptworks reconcile --dry-run", "gptworks reconcile --max-attempts 1"),
    "clean": ("gptworks clean", "gptworks clean --days 7 --newest 1 --yes"),
    "doctor": ("gptworks doctor", "gptworks doctor --judge-model llama3@365c0bd3c000"),
}
"""Command -> how it is called."""


def epilog(command: str, examples: Mapping[str, tuple[str, ...]] = EXAMPLES) -> str:
    """The examples of a command, one to a line."""
    lines = examples[command]
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])
