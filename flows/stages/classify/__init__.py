"""The stage finetune-classifier."""
