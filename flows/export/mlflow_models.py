"""The checkpoint as a model of MLflow's: text in, text or classes out, in a data frame.

Models from code, https://mlflow.org/docs/latest/ml/model/models-from-code: what is kept is the checkpoint (safetensors
and JSON) and a few lines that name the class below. Nothing is pickled.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any, Final

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from gptcore import checkpoint
from gptcore.classifier import TextClassifier
from gptcore.errors import DataError, ExportMismatch, GptcoreError
from gptcore.export.equality import TOLERANCE
from gptcore.export.places import check_head, check_place
from gptcore.files import whole_folder
from gptcore.generation import Sampling
from gptcore.models.blueprint import require_known
from gptcore.text import TextModel

_SCRIPT: Final = '''"""What MLflow runs to load the model; its checkpoint lies beside it."""

from mlflow.models import set_model

from flows.mlflow_models import {kind}

set_model({kind}())
'''
_ARTIFACT: Final = "checkpoint"
_MARKS: Final = ("MLmodel",)
_OTHERS: Final = ("artifacts", "*.py", "__pycache__", "*.yaml", "*.yml", "requirements.txt", "metadata")


class TextGeneration(PythonModel):
    """Rows with ``prompt`` and perhaps ``input`` to rows with ``response``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the checkpoint."""
        self._model = TextModel.load(Path(context.artifacts[_ARTIFACT]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row.

        Raises:
            ConfigError: a param is impossible.
            DataError: a prompt is no text.
        """
        del context
        told = {**{spec.name: spec.default for spec in _PARAMS}, **(params or {})}
        sampling = Sampling(
            max_new_tokens=int(told["max_tokens"]),
            temperature=float(told["temperature"]),
            top_k=int(told["top_k"]) or None,
            top_p=float(told["top_p"]),
            seed=int(told["seed"]),
        )
        prompts = _texts(model_input, "prompt")
        extra = _texts(model_input.fillna({"input": ""}), "input") if "input" in model_input else [""] * len(prompts)
        return pd.DataFrame(
            {"response": self._model.respond(list(zip(prompts, extra, strict=True)), sampling=sampling)}
        )


class Classification(PythonModel):
    """Rows with ``text`` to rows with ``label`` and its ``probability``; each text is read as it was in training."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the checkpoint.

        Raises:
            ConfigError: it is no classifier.
        """
        self._classifier = TextClassifier.load(Path(context.artifacts[_ARTIFACT]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify each row.

        Raises:
            DataError: a text is no text.
        """
        del context, params
        best, ids = self._classifier.probabilities(_texts(model_input, "text")).max(dim=1)
        labels = [self._classifier.labels[i] for i in ids.tolist()]
        return pd.DataFrame({"label": labels, "probability": best.tolist()})


_PARAMS: Final = (
    ParamSpec("max_tokens", DataType.long, 64),
    ParamSpec("temperature", DataType.double, 0.0),
    ParamSpec("top_k", DataType.long, 0),  # 0: no limit
    ParamSpec("top_p", DataType.double, 1.0),
    ParamSpec("seed", DataType.long, 0),
)


_COLUMNS: Final[dict[type[PythonModel], str]] = {TextGeneration: "prompt", Classification: "text"}
_PROBES: Final = ["The keeper counted the ships.", "Who?", "12 + 7 ="]
_PROBED_TOKENS: Final = 8


def export_mlflow(source: Path, folder: Path) -> Path:
    """Write a checkpoint as a folder that ``mlflow models serve -m FOLDER --env-manager local`` runs.

    The folder is loaded as MLflow loads it, and its answers are compared with the checkpoint's.

    Raises:
        ConfigError: the folder holds something else, the head gives neither words nor classes, or a layer is of a kind
            that nobody knows.
        CheckpointError: the checkpoint is missing or damaged.
        ExportMismatch: what was read back answers otherwise than the checkpoint.
    """
    check_place(folder, marks=_MARKS, others=_OTHERS)
    loaded = checkpoint.load(source)
    check_head(loaded.spec, source, allowed=("words", "classes"))
    require_known(loaded.model, what=f"exporting {source}")
    classifies = loaded.spec.head == "classes"
    if classifies:
        inputs = Schema([ColSpec(DataType.string, "text")])
        outputs = Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")])
    else:
        inputs = Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.string, "input", required=False)])
        outputs = Schema([ColSpec(DataType.string, "response")])
    # MLflow annotates params as if there always were some
    params: Any = None if classifies else ParamSchema(list(_PARAMS))
    signature = ModelSignature(inputs, outputs, params=params)
    kind = Classification if classifies else TextGeneration
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in ("gptworks", "mlflow", "torch")]
    with tempfile.TemporaryDirectory(prefix="gptworks-") as place, whole_folder(folder) as partial:
        script = Path(place) / "model.py"
        script.write_text(_SCRIPT.format(kind=kind.__name__), encoding="utf-8")
        mlflow.pyfunc.save_model(
            partial,
            python_model=str(script),
            artifacts={_ARTIFACT: str(source)},
            signature=signature,
            pip_requirements=versions,
        )
        check_mlflow(partial, source, kind())
    return folder


def check_mlflow(folder: Path, source: Path, model: PythonModel) -> None:
    """Load a written folder as MLflow does and put a few texts to it.

    Args:
        folder: as ``export_mlflow`` writes it.
        source: the checkpoint that it was made of.
        model: of the class that the folder names.

    Raises:
        ExportMismatch: it cannot be loaded, or answers otherwise than the checkpoint.
    """
    context = PythonModelContext({_ARTIFACT: str(source)}, {})
    model.load_context(context)
    rows = pd.DataFrame({_COLUMNS[type(model)]: _PROBES})
    params = {"max_tokens": _PROBED_TOKENS} if type(model) is TextGeneration else None
    try:
        theirs = mlflow.pyfunc.load_model(str(folder)).predict(rows, params=params)
    except (MlflowException, GptcoreError) as error:
        raise ExportMismatch(f"the folder was written and cannot be loaded: {error}; nothing was published") from error
    ours = model.predict(context, rows, params)
    try:
        pd.testing.assert_frame_equal(theirs, ours, check_exact=False, rtol=0, atol=TOLERANCE)
    except AssertionError as error:
        raise ExportMismatch(
            f"the folder was read back and answers {theirs.to_dict('records')}; expected {ours.to_dict('records')}. "
            "Nothing was written; this is a fault of the export, please report it"
        ) from error


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    if column not in rows:
        raise DataError(f"the rows have the columns {list(rows.columns)}; {column!r} is missing")
    texts = rows[column].tolist()
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"row {wrong}: {column} is {texts[wrong]!r}; it must be a text")
    return texts
