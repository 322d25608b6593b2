"""The base model of a chain, as far as it is known before anything is made: what it is good for and what fits it."""

from __future__ import annotations

from flows.sources.hub import starting_sizes
from flows.stages.pipeline import Pipeline
from gptcore.config import nearest
from gptcore.errors import ConfigError
from gptcore.models import WordNetworkConfig
from gptcore.models.blueprint import blueprint
from gptcore.models.network import Network
from gptcore.nn.surgery import find_linears
from gptcore.objectives import NextToken


def base_sizes(pipeline: Pipeline) -> WordNetworkConfig | None:
    """The sizes of the base model; None where they are not known before it is fetched."""
    settings = pipeline.pretrain
    return starting_sizes(settings.init) if settings.init else settings.model


def base_network(pipeline: Pipeline) -> Network | None:
    """The base model without its numbers; None where its sizes are not known before it is fetched."""
    sizes = base_sizes(pipeline)
    return None if sizes is None else blueprint(sizes)


def check_fit(pipeline: Pipeline) -> None:
    """Refuse settings that do not fit the base model, before it is trained.

    Raises:
        ConfigError: it cannot be pretrained, lacks a layer that LoRA targets, or cannot be compressed so.
    """
    network = base_network(pipeline)
    if network is None:
        return
    NextToken().fits(network)
    linears = (name for stack in network.stacks() for name, _ in find_linears(stack))
    known = {name.rpartition(".")[2] for name in linears}
    for target in pipeline.lora.targets:
        if target not in known:
            raise ConfigError(
                f"lora.targets: expected linear layers of the blocks of a {type(network).__name__}, "
                f"got {target!r}{nearest(target, known)}"
            )
    pipeline.compress.check_model(network.config)
