"""Store a model's weights in another form: the linear layers of its stacks, and its table of words."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from gptcore.models.blueprint import require_plain
from gptcore.models.network import Network
from gptcore.nn.surgery import freeze, replace_modules
from gptcore.transforms.base import stack_modules


def store(
    model: Network,
    *,
    linear: Callable[[nn.Linear], nn.Module],
    table: Callable[[Tensor], tuple[nn.Module, nn.Module]] | None,
) -> Network:
    """Replace the layers in place and freeze the model; norms, positions and a head of its own stay as they are.

    Args:
        model: its updates are merged.
        linear: what takes the place of a linear layer in a stack.
        table: of the words' weights (V, C), what takes the place of the embedding and of a head tied to it; None leaves
            both. A model that reads no words has neither.

    Raises:
        ConfigError: a layer of a stack, or the embedding, is not plain.
    """
    embedding, head = getattr(model, "token_embedding", None), getattr(model, "head", None)
    names = _check_plain(model, embedding)
    replace_modules(
        model,
        lambda name, module: type(module) is nn.Linear and name in names,
        lambda module: linear(cast(nn.Linear, module)),
    )
    if table is not None and embedding is not None:
        weight = embedding.weight
        words, tied_head = table(weight.detach())
        model.register_module("token_embedding", words)
        if getattr(head, "weight", None) is weight:
            model.register_module("head", tied_head)
    freeze(model)
    return model


def _check_plain(model: Network, embedding: nn.Module | None) -> set[str]:
    """Insist on plain stacks and a plain embedding, and give the names of all in the stacks.

    Not the modules: whoever held them would keep every layer's weights until the last one is stored.
    """
    inside = stack_modules(model)
    within = {*inside, embedding} if embedding is not None else inside
    require_plain(model, what="storing it in another form", within=within)
    return {name for name, module in model.named_modules() if module in inside}
