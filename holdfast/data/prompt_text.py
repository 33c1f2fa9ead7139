"""Prompts with fields that texts take the place of."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.core.errors import UserError


def read_prompt(path: Path, kind: str, fields: tuple[str, ...], parameter: str, example: str) -> str:
    """The text of a prompt file. Raises UserError where there is none, or where it does not hold each field, as {name}, exactly
    once. `kind`: what errors call it; `parameter` names its path; `example` is such a file."""
    if not path.is_file():
        raise UserError(f"no such {kind}", where=path, do=f"correct {parameter} in params.yaml")
    text = path.read_text(encoding="utf-8").strip()
    for field in fields:
        if text.count(f"{{{field}}}") != 1:
            raise UserError(f"the {kind} needs {{{field}}} exactly once", where=path, do=f"see {example}")
    return text


def fill_prompt(prompt: str, **texts: str) -> str:
    """The prompt with the texts in place of the fields, in one pass: a text that spells a field stays as it is."""
    return re.sub(rf"\{{({'|'.join(texts)})\}}", lambda match: texts[match[1]], prompt)
