"""Where batches are born: reading, cleaning, token shards, and the kinds of samples.

Every name here is public; what the modules hold besides belongs to them.
"""

from __future__ import annotations

from gptcore.data.base import STILL, Data, Draw, Source, TextSize, seeded_order
from gptcore.data.clean import (
    Leak,
    LeakageReport,
    TrainingTexts,
    normalise,
    prepare_documents,
    prepare_rows,
    remove_leaks,
    split_by_hash,
)
from gptcore.data.corpus import ShardFile, ShardManifest, Shards, open_shards, read_manifest, read_texts, write_shards
from gptcore.data.instructions import Instructions
from gptcore.data.json_rows import json_rows, jsonl_rows, parse_json
from gptcore.data.labelled import LabelledText, label_names
from gptcore.data.ledger import FULLY_MASKED, Ledger, LedgerRow, Outcome
from gptcore.data.near_duplicates import Match, Signature, TextIndex, near_duplicate_groups
from gptcore.data.readers import Document, numbered_rows, read_documents, read_labelled_tsv, read_rows, row_place
from gptcore.data.rows import PaddedRows, RowClasses, RowTargets, TokenLabels
from gptcore.data.tables import delimited_rows, parquet_rows
from gptcore.data.templates import PromptTemplate, template_by_name, template_names
from gptcore.data.text_files import check_file, check_surrogates, read_lines, read_pieces
from gptcore.data.windows import TokenWindows, WindowSource

__all__ = [
    "FULLY_MASKED",
    "STILL",
    "Data",
    "Document",
    "Draw",
    "Instructions",
    "LabelledText",
    "Leak",
    "LeakageReport",
    "Ledger",
    "LedgerRow",
    "Match",
    "Outcome",
    "PaddedRows",
    "PromptTemplate",
    "RowClasses",
    "RowTargets",
    "ShardFile",
    "ShardManifest",
    "Shards",
    "Signature",
    "Source",
    "TextIndex",
    "TextSize",
    "TokenLabels",
    "TokenWindows",
    "TrainingTexts",
    "WindowSource",
    "check_file",
    "check_surrogates",
    "delimited_rows",
    "json_rows",
    "jsonl_rows",
    "label_names",
    "near_duplicate_groups",
    "normalise",
    "numbered_rows",
    "open_shards",
    "parquet_rows",
    "parse_json",
    "prepare_documents",
    "prepare_rows",
    "read_documents",
    "read_labelled_tsv",
    "read_lines",
    "read_manifest",
    "read_pieces",
    "read_rows",
    "read_texts",
    "remove_leaks",
    "row_place",
    "seeded_order",
    "split_by_hash",
    "template_by_name",
    "template_names",
    "write_shards",
]
