"""The prompt style of a model in the words of other programs: Ollama's Modelfile, a chat template in Jinja.

A model answers well only to prompts of the form that it was trained with. Ollama's templates:
https://docs.ollama.com/modelfile#template; chat templates: https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

import json
from typing import Any

from gptcore.data.templates import PromptTemplate
from gptcore.errors import ConfigError

_QUOTE = '"""'


def chat_template(template: PromptTemplate) -> str:
    """The style as a Jinja template over ``messages``; the system's words stand before the user's next ones."""
    before, after = _around(template)
    turn = f"{{{{- {_quote(before)} + ns.system + message['content'] + {_quote(after)} -}}}}"
    return (
        "{%- set ns = namespace(system='') -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] + '\\n\\n' -%}"
        "{%- elif message['role'] == 'user' -%}" + turn + "{%- set ns.system = '' -%}"
        f"{{%- else -%}}{{{{- message['content'] + {_quote(template.end)} -}}}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )


def ollama_template(template: PromptTemplate | None) -> str:
    """The style as a Go template; a base model continues the prompt as it is.

    Raises:
        ConfigError: the style's own words would be read as commands.
    """
    if template is None:
        return "{{ .Prompt }}"
    before, after = _around(template)
    if any(sign in before + after + template.end for sign in ("{{", "}}", _QUOTE)):
        raise ConfigError(f"template {template.name!r} has signs of Ollama's own template language in it")
    system = "{{ if .System }}{{ .System }}\n\n{{ end }}"
    return f"{before}{system}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}{template.end}"


def ollama_parameters(template: PromptTemplate | None, *, context_length: int) -> dict[str, Any]:
    """Ollama's parameters besides the template, so that it answers as we do.

    Left alone it penalises repetitions, draws instead of choosing, opens a window of 4,096 positions and writes
    without end; learned positions do not reach beyond the context.
    """
    stop = [] if template is None else [*dict.fromkeys((template.end, *template.stop))]
    return {
        **({"stop": stop} if stop else {}),
        "num_ctx": context_length,
        "num_predict": max(1, context_length // 2),
        "temperature": 0.0,
        "repeat_penalty": 1.0,
    }


def modelfile(file_name: str, template: PromptTemplate | None, *, context_length: int) -> str:
    """A Modelfile for ``ollama create NAME -f Modelfile``, beside the file that it names."""
    lines = [f"FROM ./{file_name}", f"TEMPLATE {_QUOTE}{ollama_template(template)}{_QUOTE}"]
    for name, value in ollama_parameters(template, context_length=context_length).items():
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {f'{_QUOTE}{v}{_QUOTE}' if isinstance(v, str) else v}" for v in values]
    return "\n".join(lines) + "\n"


def _around(template: PromptTemplate) -> tuple[str, str]:
    """What the style writes before and after an instruction without input."""
    before, _, after = template.without_input.partition("{instruction}")
    return before, after


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
