"""GGUF: one file that llama.cpp and Ollama run, beside a Modelfile that tells Ollama the prompt style.

Written with llama.cpp's own library ``gguf``; how each kind of numbers is packed is described in
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing is published before it was read back: every number
against its original, the tokens against the tokenizer, and the logits of a graph that was written after llama.cpp's
against those of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from gguf import GGML_QUANT_VERSION, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import quantize
from torch import Tensor

from gptcore import checkpoint
from gptcore.checkpoint import Loaded, ModelSpec
from gptcore.data.templates import PromptTemplate, template_by_name, template_names
from gptcore.errors import CheckpointError
from gptcore.export.equality import Agreement, agreement
from gptcore.export.every import GGUF, Packing
from gptcore.export.exporter import Exporter, Job, Outputs, outputs_of, tokens_of, write_export
from gptcore.export.families import find_gguf_forms, gguf_form, model_with
from gptcore.export.gguf_file import GGUFFile, read_gguf
from gptcore.export.gguf_graph import gguf_logits
from gptcore.export.gguf_tokens import check_tokenizer, read_tokenizer, write_tokenizer
from gptcore.export.modelfile import chat_template, modelfile
from gptcore.files import write_json, write_text
from gptcore.models import Model
from gptcore.models.family import GGUFForm

_FILE_TYPES: Final[dict[Packing, LlamaFileType]] = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q5_1": LlamaFileType.MOSTLY_Q5_1,
    "q5_0": LlamaFileType.MOSTLY_Q5_0,
    "q4_1": LlamaFileType.MOSTLY_Q4_1,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
_ERRORS: Final[dict[str, float]] = {
    "F32": 0.0,
    "F16": 2**-11,
    "BF16": 2**-8,
    "Q8_0": 1 / 254,
    "Q5_1": 1 / 31,
    "Q5_0": 1 / 16,
    "Q4_1": 1 / 15,
    "Q4_0": 1 / 8,
}
"""The most that packing may change a number, as a share of the largest in its block."""
_TEMPLATE: Final = "gptworks.template"
"""Our own field: the prompt style's name, for the way back."""


class GGUFExport(NamedTuple):
    """A published file."""

    file: Path
    """The model; ``Modelfile`` and ``export.json`` lie beside it."""
    agreement: Agreement
    """How close it is to the checkpoint; packing is the only difference."""


def export_gguf(source: Path, folder: Path, *, packing: Packing = "f16") -> GGUFExport:
    """Write a checkpoint as a folder with a GGUF file and a Modelfile; updates beside its layers are merged first.

    Matrices are packed, all else stays fp32. A row that cannot be cut into the packing's blocks is written as F16;
    below 8 bits the embedding and the head take Q8_0, since rare words suffer most. An earlier export in the same
    place is replaced; anything else there is not touched.

    Raises:
        ConfigError: the checkpoint is a classifier, a layer of it is not plain, its tokenizer is of another kind, or
            the folder holds something else.
        ExportMismatch: what was read back is not what was written; nothing is published.
    """
    done = write_export(GGUF, source, folder, options={"packing": packing})
    assert done.agreement is not None
    return GGUFExport(folder / _file_name(folder, packing), done.agreement)


@dataclass(frozen=True)
class GGUFExporter(Exporter):
    """One file, and a Modelfile for it."""

    packing: Packing = "f16"

    marks = ("Modelfile",)
    others = ("export.json", "*.gguf")

    @property
    def exact(self) -> bool:
        """Whether nothing is packed."""
        return self.packing == "f32"

    def take(self, job: Job) -> Job:
        """As any form.

        Raises:
            ConfigError: the family has no form in GGUF.
        """
        job = super().take(job)
        gguf_form(job.loaded.decoder)
        return job

    def write(self, job: Job, folder: Path) -> None:
        """Write the file and the Modelfile."""
        loaded, name = job.loaded, _file_name(Path(job.out), self.packing)
        config, tensors = _contents(loaded)
        _, form = gguf_form(loaded.decoder)
        _write(folder / name, loaded, form, config=config, tensors=tensors, packing=self.packing)
        context_length = loaded.decoder.config.context_length
        write_text(folder / "Modelfile", modelfile(name, template_of(loaded), context_length=context_length))

    def read(self, job: Job, folder: Path) -> Outputs:
        """The logits of llama.cpp's graph; numbers, tokens and the imported model are held against what was meant."""
        loaded, written = job.loaded, read_gguf(folder / _file_name(Path(job.out), self.packing))
        _check_numbers(written, _contents(loaded)[1])
        check_tokenizer(written, loaded.tokenizer)
        back = _model_of(written, place="the written file")
        if back.config.context_length != loaded.decoder.config.context_length:
            raise CheckpointError(f"the context has become {back.config.context_length}")
        tokens = tokens_of(job)
        theirs, same = gguf_logits(written, tokens), outputs_of(back, tokens).numbers
        assert same is not None
        agreement(same, theirs).require(what="llama.cpp's graph of the written file")
        return Outputs(theirs)

    def finish(self, job: Job, folder: Path, found: Agreement | None) -> None:
        """Leave beside the file how far it is from the checkpoint."""
        assert found is not None
        written = read_gguf(folder / _file_name(Path(job.out), self.packing))
        kinds = sorted({tensor.kind.name for tensor in written.tensors.values()})
        facts = {"from": job.loaded.digest, "kinds": kinds, "against_fp32": found._asdict()}
        write_json(folder / "export.json", facts)

    def describe(self, job: Job) -> str:
        """Names the file."""
        return f"written: {Path(job.out) / _file_name(Path(job.out), self.packing)}, and a Modelfile"


def template_of(loaded: Loaded) -> PromptTemplate | None:
    """The prompt style that a checkpoint was trained with."""
    return template_by_name(loaded.spec.template) if loaded.spec.template else None


def _file_name(folder: Path, packing: Packing) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', folder.name) or 'model'}-{packing}.gguf"


def _contents(loaded: Loaded) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """transformers' ``config.json`` of a model, and its tensors under llama.cpp's names."""
    hf, form = gguf_form(loaded.decoder)
    config = hf.to_config(loaded.model.config, end_of_text=loaded.tokenizer.end_of_text)
    return config, form.to_tensors(hf.to_tensors(loaded.model), config=config)


def import_gguf(file: Path, out: Path) -> Path:
    """Make a checkpoint of a GGUF file of the architectures gpt2 or llama; packed numbers become fp32.

    Raises:
        CheckpointError: the file is damaged, or holds another kind of model or tokenizer.
    """
    read = read_gguf(file)
    model = _model_of(read, place=str(file))
    tokenizer = read_tokenizer(read, name=file.stem)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{file}: expected a tokenizer of {model.config.vocab_size} tokens, as the model has, "
            f"got {tokenizer.vocab_size}"
        )
    template = read.fields.get(_TEMPLATE)
    known = template if template in template_names() else None
    spec = ModelSpec(model.config, template=known, tokenizer_digest=tokenizer.digest)
    checkpoint.save(out, model=model, spec=spec, tokenizer=tokenizer)
    return out


def _write(
    file: Path,
    loaded: Loaded,
    form: GGUFForm,
    *,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    packing: Packing,
) -> None:
    template = template_of(loaded)
    writer = GGUFWriter(file, form.architecture)
    writer.add_name(file.stem)
    writer.add_file_type(_FILE_TYPES[packing])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    for field, value in form.to_fields(config).items():
        key = f"{form.architecture}.{field}"
        if isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    end = template.end_id(loaded.tokenizer) if template else loaded.tokenizer.end_of_text
    write_tokenizer(writer, loaded.tokenizer, vocab_size=loaded.decoder.config.vocab_size, end=end)
    if template is not None:
        writer.add_chat_template(chat_template(template))
        writer.add_string(_TEMPLATE, template.name)
    for name, tensor in tensors.items():
        kind = _kind(name, tensor, packing)
        numbers = np.ascontiguousarray(tensor.detach().float().numpy())
        writer.add_tensor(name, quantize(numbers, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _kind(name: str, tensor: Tensor, packing: Packing) -> GGMLQuantizationType:
    if tensor.dim() < 2 or name == "position_embd.weight":  # llama.cpp adds them as fp32
        return GGMLQuantizationType.F32
    wanted = GGMLQuantizationType[packing.upper()]
    if name in ("token_embd.weight", "output.weight") and packing[:2] in ("q4", "q5"):
        wanted = GGMLQuantizationType.Q8_0
    return wanted if tensor.shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def _check_numbers(written: GGUFFile, tensors: dict[str, Tensor]) -> None:
    if written.tensors.keys() != tensors.keys():
        raise CheckpointError(f"tensors are missing or too many: {sorted(written.tensors.keys() ^ tensors.keys())[:3]}")
    for name, tensor in tensors.items():
        packed = written.tensors[name]
        wanted, found = tensor.detach().float().numpy(), packed.dense()
        block = GGML_QUANT_SIZES[packed.kind][0]
        if found.shape != wanted.shape:
            raise CheckpointError(f"{name} has the shape {found.shape}, not {wanted.shape}")
        largest = np.abs(wanted).reshape(-1, block).max(axis=1)
        change = np.abs(found - wanted).reshape(-1, block).max(axis=1)
        # scales and minimums are F16: rounded themselves, and of tiny blocks not exact
        limit = _ERRORS[packed.kind.name] * largest
        if packed.kind != GGMLQuantizationType.F32:
            limit = limit + 2**-10 * largest + 1e-6
        if not bool((change <= limit).all()):
            worst = int(np.argmax(change - limit))
            raise CheckpointError(
                f"{name} is off by {change[worst]:.3g} where {packed.kind.name} may be off by {limit[worst]:.3g}; "
                "weights beyond 65,504 and those that are not finite cannot be packed"
            )


def _model_of(read: GGUFFile, *, place: str) -> Model:
    form, gguf = find_gguf_forms(read.fields.get("general.architecture"), place=place)
    tied = "output.weight" not in read.tensors
    hf = {**gguf.from_fields(read.fields), "tie_word_embeddings": tied}
    table = read.tensors.get("token_embd.weight")
    hf["vocab_size"] = hf.get("vocab_size") or (table.shape[0] if table else None)
    config = form.from_config(hf)
    tensors = {name: torch.from_numpy(tensor.dense()) for name, tensor in read.tensors.items()}
    return model_with(form, config, gguf.from_tensors(tensors, config=hf), place=place)
