"""The stage finetune-instruct."""
