"""Settings of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptcore.config import Config, require_at_least
from gptcore.errors import ConfigError


@dataclass(frozen=True)
class EvaluateStage(Config):
    """Scores of the held-out responses."""

    judge: Literal["auto", "required", "off"] = "auto"
    """Ask the judge if one answers; require it; or never."""
    judge_model: str = "llama3"
    """Model tag on the judge's server; ``llama3@365c0bd3c000`` insists on the weights of this digest."""
    judge_panel: tuple[str, ...] = ()
    """Further judges on the same server, of the same responses; their agreement is reported, the first decides."""
    judge_backend: Literal["ollama", "openai"] = "ollama"
    """Which interface the judge's server speaks."""
    judge_url: str | None = None
    """Its address; by default ``OLLAMA_HOST`` or ``OPENAI_BASE_URL``."""
    judge_models: tuple[Literal["instruct", "base", "lora"], ...] = ("instruct", "base")
    """Whose responses are judged, and then compared on the same items; the fine-tuned model's (instruct) always are."""
    pairwise: bool = False
    """Whether the judge also sees each two models' responses side by side, in both orders."""
    num_ctx: int = 8192
    """Tokens of the judge's window."""
    shortcut: bool = True
    """Whether a response that is the reference gets 100 without asking; without it scores compare with the book's."""
    concurrency: int = 1
    """Requests to the judge at a time."""

    def __post_init__(self) -> None:
        """Refuse what would be found out only after the models are trained."""
        require_at_least(self, concurrency=1, num_ctx=1024)
        if "instruct" not in self.judge_models or len(set(self.judge_models)) < len(self.judge_models):
            raise ConfigError(
                "evaluate.judge_models: expected different models with instruct among them, got "
                f"{', '.join(self.judge_models) or 'none'}"
            )
        panel = (self.judge_model, *self.judge_panel)
        if len(set(panel)) < len(panel):
            raise ConfigError(
                f"evaluate.judge_panel: expected judges that differ from each other and from {self.judge_model}, got "
                f"{', '.join(self.judge_panel)}; name each judge once"
            )
