"""The stage pretrain."""
