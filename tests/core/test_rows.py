"""The types of rows say what the schemas say."""

from __future__ import annotations

import typing

import pyarrow as pa
import pytest

from holdfast.core import records, rows

TYPES = {
    "domain": rows.DomainRow,
    "instructions_raw": rows.RawInstruction,
    "instructions_kept": rows.Instruction,
    "responses": rows.Response,
    "candidates": rows.Candidate,
    "replay": rows.ReplayRow,
    "mix": rows.MixRow,
}
COLUMNS = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    rows.Family: pa.string(),
    rows.Messages: records.MESSAGES,
}


@pytest.mark.parametrize("name", TYPES)
def test_a_row_has_the_fields_types_and_nulls_of_its_contract(name):
    fields = {}
    for field, kind in typing.get_type_hints(TYPES[name]).items():
        if field in TYPES[name].__optional_keys__:
            continue  # in the column `extra`
        parts = typing.get_args(kind) if type(None) in typing.get_args(kind) else (kind,)
        fields[field] = (COLUMNS[parts[0]], type(None) in parts)
    assert fields == {column.name: (column.type, column.nullable) for column in records.SCHEMAS[name]}
