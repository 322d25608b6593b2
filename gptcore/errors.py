"""Every error gptcore raises on purpose.

GptcoreError
├── ConfigError              a setting is unknown, impossible, or does not fit another one
│   └── PromptTooLong        a prompt leaves no room for an answer in the model's context
├── DataError                an input file, row or token shard cannot be used as it is
│   └── TokenizerMismatch    two parts were made with different tokenizers
├── CheckpointError          a checkpoint is missing, incomplete or damaged
├── ExportMismatch           what was exported and read back is not the model; nothing is published
├── OutOfDiskError           a file could not be written whole
├── DivergedError            training left the finite numbers and could not come back
├── LockedError              another process is already writing to the same folder
└── InterruptedRun           the user or the system stopped a run; the same command resumes it

Each class carries the process exit code that a command line should end with.
"""

from __future__ import annotations


class GptcoreError(Exception):
    """Base of all deliberate errors; its text says what is wrong, where, and how to mend it."""

    exit_code = 1


class ConfigError(GptcoreError):
    """A setting is unknown, impossible, or does not fit another one."""

    exit_code = 2


class PromptTooLong(ConfigError):
    """A prompt leaves no room for an answer in the model's context, and is not to be cut."""


class DataError(GptcoreError):
    """An input file, row or token shard cannot be used as it is."""

    exit_code = 3


class TokenizerMismatch(DataError):
    """Two parts that must share a tokenizer were made with different ones."""


class CheckpointError(GptcoreError):
    """A checkpoint is missing, incomplete or damaged."""

    exit_code = 4


class ExportMismatch(GptcoreError):
    """An export was read back and is not the model; nothing is published."""

    exit_code = 12


class OutOfDiskError(GptcoreError):
    """A file could not be written whole; nothing half-written was left behind."""

    exit_code = 5


class DivergedError(GptcoreError):
    """The loss or the gradients left the finite numbers."""

    exit_code = 7


class LockedError(GptcoreError):
    """Another process is already writing to the same folder."""

    exit_code = 8


class InterruptedRun(GptcoreError):
    """A run was stopped from outside after saving its state; the same command resumes it."""

    exit_code = 75
