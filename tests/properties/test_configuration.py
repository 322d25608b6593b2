"""Any configuration survives JSON, and any text either fits a field or is refused by name."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.config import Config, set_by_path
from gptcore.errors import ConfigError
from gptcore.models import GPTConfig
from gptcore.train import Constant, Cosine, Muon, OptimizerConfig, TrainConfig
from gptcore.transforms import LoRA, Quantize

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SHARE = st.floats(0, 0.99)
CONFIGS = st.one_of(
    st.builds(GPTConfig, width=st.integers(1, 99), n_heads=st.just(1), dropout=SHARE, tied_head=st.booleans()),
    st.builds(LoRA, rank=st.integers(1, 99), alpha=FINITE, targets=st.lists(st.text()).map(tuple)),
    st.builds(Quantize, bits=st.sampled_from([4, 8]), group_size=st.integers()),
    st.builds(
        TrainConfig,
        steps=st.none() | st.integers(1, 10**9),
        optimizer=st.builds(OptimizerConfig, lr=st.floats(1e-9, 1e9), weight_decay=FINITE)
        | st.builds(Muon, momentum=SHARE, matrix_lr_scale=st.floats(1e-9, 1e9)),
        schedule=st.builds(Constant, warmup=SHARE) | st.builds(Cosine, warmup=SHARE, final=SHARE),
        sample_prompts=st.lists(st.text()).map(tuple),
    ),
)
FIELDS = (
    "steps",
    "epochs",
    "batch_size",
    "keep",
    "sample_prompts",
    "optimizer",
    "optimizer.lr",
    "schedule.warmup",
    "x",
)


@settings(max_examples=150, deadline=None)
@given(CONFIGS)
def test_any_configuration_survives_json(config: Config) -> None:
    back = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert type(back) is type(config)
    assert back.digest() == config.digest()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FIELDS), st.text() | FINITE.map(str) | st.integers().map(str) | st.none() | st.booleans())
def test_any_text_for_a_field_fits_or_is_refused_by_name(path: str, raw: object) -> None:
    told = ""
    changed = TrainConfig()
    try:
        changed = set_by_path(changed, path, raw)
    except ConfigError as error:
        told = str(error)
    assert Config.from_dict(changed.to_dict()) == changed
    assert not told or path.rpartition(".")[2] in told
    assert told or path != "x"
