"""Refusals: why a request is not answered, and how each dialect says it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from gptcore.errors import ConfigError, DataError, GptcoreError, PromptTooLong


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Take the words, the HTTP status, OpenAI's code and field name, and seconds after which to try again."""
        super().__init__(message)
        self.message, self.status, self.code, self.param, self.retry_after = message, status, code, param, retry_after

    @staticmethod
    def of(error: Exception) -> Refusal:
        """The refusal that an error amounts to."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            return Refusal(f"{where or 'the body'}: {first['msg']}", param=where or None)
        if isinstance(error, PromptTooLong):
            return Refusal(str(error), code="context_length_exceeded")
        if isinstance(error, ConfigError | DataError):
            return Refusal(str(error))
        if isinstance(error, GptcoreError):
            return Refusal(str(error), status=500, code="model_error")
        if isinstance(error, HTTPException):
            return Refusal(str(error.detail), status=error.status_code)
        return Refusal("the server failed; its log says how", status=500)

    def page(self, path: str) -> dict[str, Any]:
        """The body of the refusal, in the dialect of the path."""
        if not path.startswith("/v1/"):
            return {"error": self.message}
        kinds = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What to say beside the body."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
