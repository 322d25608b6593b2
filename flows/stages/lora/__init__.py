"""The stage lora."""
