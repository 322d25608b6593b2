"""Every error the evaluation raises on purpose.

EvalError
├── EvalConfigError          a setting of the evaluation is impossible, or does not fit the judge model
├── EvalDataError            items, responses or scores cannot be used as they are
│   ├── UnpairableError      two sets of scores do not belong to the same items
│   └── IncomparableError    two runs were not judged by the same instrument on the same items
├── StoreError               the file of recorded judge answers is damaged or in use
└── JudgeUnavailable         the judge's server does not answer, or not as a judge must
    ├── JudgeModelMissing    the server answers, but does not have the judge model
    └── JudgeChanged         behind the model's name is not, or no longer, the wanted model

Each class carries the process exit code that a command line should end with. A single answer that the judge failed to
score is not an error: it is a ``Verdict`` without a score and with a reason.
"""

from __future__ import annotations

import math


class EvalError(Exception):
    """Base of all deliberate errors; its text says what is wrong, where, and how to mend it."""

    exit_code = 1


class EvalConfigError(EvalError):
    """A setting of the evaluation is impossible, or does not fit the judge model."""

    exit_code = 2


class EvalDataError(EvalError):
    """Items, responses or scores cannot be used as they are."""

    exit_code = 3


class UnpairableError(EvalDataError):
    """Two sets of scores do not belong to the same items."""


class IncomparableError(EvalDataError):
    """Two runs were not judged by the same instrument on the same items."""


class StoreError(EvalError):
    """The file of recorded judge answers is damaged, or another process is writing to it."""

    exit_code = 4


class JudgeUnavailable(EvalError):
    """The judge's server does not answer, or not as a judge must."""

    exit_code = 6


class JudgeModelMissing(JudgeUnavailable):
    """The server answers, but does not have the judge model."""


class JudgeChanged(JudgeUnavailable):
    """Behind the model's name is not, or no longer, the wanted model, or the server is another one."""

    def __init__(self, message: str, *, since: float = -math.inf) -> None:
        """``since`` is the monotonic instant at which it was last known to be the wanted one."""
        super().__init__(message)
        self.since = since
