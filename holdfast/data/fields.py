"""Which fields of a row say what in each format, and an account of all: used + unused = fields of the rows that could be read.

A field that holds null is not counted. Fields of turns and of parts of their content are named with brackets:
`messages[].name`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from holdfast.core.errors import UserError
from holdfast.params.ingest import Columns

TURNS = ("messages", "conversation", "dialogue", "dialog", "turns", "chat", "contents")
NEEDED: dict[str, list[tuple[str, ...]]] = {  # of each tuple one field
    "messages": [TURNS],
    "sharegpt": [("conversations",)],
    "alpaca": [("instruction",), ("output",)],
    "prompt_completion": [("prompt",), ("completion",)],
    "preference": [("chosen",)],
}
PURPOSES = {  # of each the first field that a row has
    "system": ("system", "system_prompt", "systemInstruction", "system_instruction"),
    "tools": ("tools", "functions"),
    "reasoning": ("reasoning_content", "reasoning", "thinking"),
    "group": ("group", "suite"),
}
MORE = {  # fields that a format uses where a row has them
    "messages": ("label",),
    "sharegpt": ("label",),
    "alpaca": ("input", "history"),
    "prompt_completion": ("label",),
    "preference": ("prompt", "conversations", *TURNS),
}
ROW_WEIGHTS = (
    "weight",
    "train",
    "training",
    "trainable",
    "loss_weight",
    "loss_mask",
    "train_mask",
    "kto_tag",
)  # of every format but columns
COLUMN_WEIGHTS = frozenset(("weight", "loss_weight", "loss_mask", "train_mask"))  # of the format columns, too
QUESTIONS = ("prompt", "question", "query", "instruction", "input", "user")
ANSWERS = ("response", "answer", "output", "completion", "chosen", "target", "assistant")
FIRST_ROWS = 100  # that the format is detected from


def field(row: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    if isinstance(row, dict) and (path in row or "." not in path):  # a CSV column may have a dot in its name
        return row.get(path)
    for part in path.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


class Fields:
    """The fields of a format, and how often rows had each."""

    def __init__(self, form: str, columns: Columns | None, split_by: str | None = None) -> None:
        self.one_of: dict[str, tuple[str, ...]] = dict(PURPOSES)
        if columns:
            mapped = columns.model_dump(exclude_none=True)
            self.one_of = {purpose: tuple(filter(None, [mapped.get(purpose)])) for purpose in PURPOSES}
            self.one_of["group"] = tuple(filter(None, [columns.group])) or ()
            self.always = {name for key, name in mapped.items() if key not in ("role", "content", *PURPOSES)}
            self.always |= COLUMN_WEIGHTS
        else:
            self.always = {name for names in NEEDED[form] for name in names if names != TURNS}
            self.always |= {*MORE[form], *ROW_WEIGHTS}
            if form == "messages":
                self.one_of["turns"] = TURNS
            if form in ("messages", "sharegpt"):
                self.one_of["reasoning"] = ()  # a matter of each turn
        self.always |= {split_by} if split_by else set()
        self.turns = "conversations" if form == "sharegpt" else None
        self.known = self.always | {name for names in self.one_of.values() for name in names}
        self.names_of = {purpose: frozenset(names) for purpose, names in self.one_of.items()}
        self.inner = {name.rpartition(".")[0] for name in self.known if "." in name}
        self.shapes: Counter[tuple[str, ...]] = Counter()  # rows by the names of their fields
        self.inner_shapes: Counter[tuple[str, tuple[str, ...]]] = (
            Counter()
        )  # turns and parts; "?name" is one that is not used

    def first(self, row: dict[str, Any], purpose: str) -> Any:
        """The value of the first field for a purpose that the row has, or None."""
        if not self.inner and self.names_of[purpose].isdisjoint(row):
            return None
        return next((value for name in self.one_of[purpose] if (value := field(row, name)) is not None), None)

    def find_turns(self, row: dict[str, Any]) -> tuple[str, Any]:
        """(name, value) of the field that holds the turns."""
        name = self.turns or TURNS[0]
        if self.turns is None and row.get(name) is None:
            name = next((name for name in TURNS if row.get(name) is not None), name)
        return name, row.get(name)

    def count(self, row: dict[str, Any], shapes: list[tuple[str, tuple[str, ...]]]) -> None:
        """Counts a row that could be read; `shapes`: (where, names) of its turns and their parts."""
        some = self.inner or None in row.values()  # else every name counts, which is the usual case
        self.shapes[tuple(self.names(row) if some else row)] += 1
        for shape in shapes:
            self.inner_shapes[shape] += 1

    def names(self, row: dict[str, Any], before: str = "") -> list[str]:
        """The names of fields; of records that a mapping reaches into, those of their fields."""
        listed = []
        for key, value in row.items():
            if isinstance(value, dict) and any(f"{path}.".startswith(f"{before}{key}.") for path in self.inner):
                listed += self.names(value, f"{before}{key}.")
            elif value is not None:
                listed.append(before + key)
        return listed

    def totals(self) -> dict[str, Any]:
        """{"fields": all, "used": by name, "unused": by name}, for a report."""
        used: Counter[str] = Counter()
        unused: Counter[str] = Counter()
        for names, rows in self.shapes.items():
            firsts = {next((n for n in several if n in names), None) for several in self.one_of.values()}
            for name in names:
                (used if name in self.always or name in firsts else unused)[name] += rows
        for (where, names), count in self.inner_shapes.items():
            for name in names:
                (unused if name.startswith("?") else used)[f"{where}.{name.removeprefix('?')}"] += count
        return {
            "fields": used.total() + unused.total(),
            "used": {printable(name): n for name, n in sorted(used.items())},
            "unused": {printable(name): n for name, n in sorted(unused.items())},
        }


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as an object. Raises ValueError for two equal keys: json.loads would keep the last and say nothing."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return row


def printable(text: str) -> str:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, in its escaped form."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def list_fields(rows: list[Any]) -> str:
    """The fields of the first rows, for an error message; names come from the data, hence repr and the cuts."""
    names = dict.fromkeys(name for row in rows[:FIRST_ROWS] if isinstance(row, dict) for name in row)
    return ", ".join(repr(name)[:40] for name in list(names)[:12]) + (", ..." if len(names) > 12 else "") or "none"


def detect_format(rows: list[Any], where: object) -> str:
    """The one format that the first rows have. Raises UserError where none or several fit."""

    def fits(row: Any, form: str) -> bool:
        return all(any(field(row, name) is not None for name in names) for names in NEEDED[form])

    forms = [form for form in NEEDED if any(fits(row, form) for row in rows[:FIRST_ROWS])]
    if len(forms) == 1:
        return forms[0]
    if not any(isinstance(row, dict) for row in rows[:FIRST_ROWS]):
        do = "give a JSON object a row, and as many cells in a CSV row as its header has"
        raise UserError("no row is a record of named fields", where=where, do=do)
    what = f"the rows fit the formats {' and '.join(forms)}" if forms else "the rows fit no known format"
    do = f"set ingest.format ({', '.join(NEEDED)}), or to columns, with ingest.columns{guess_columns(rows)}, in params.yaml"
    raise UserError(f"{what}; fields found: {list_fields(rows)}", where=where, do=do)


def guess_columns(rows: list[Any]) -> str:
    """What the mapping may be, where names of the fields say so."""
    named = {name.strip().lower(): name for row in rows[:FIRST_ROWS] if isinstance(row, dict) for name in row}
    sides = [next((named[name] for name in names if name in named), None) for names in (QUESTIONS, ANSWERS)]
    return f" (such as prompt: {sides[0]!s:.40}, response: {sides[1]!s:.40})" if all(sides) else ""


class Wanted:
    """Fields that the params ask for and no row has had yet: a slip in params.yaml, not a fault of the rows."""

    def __init__(self, form: str, columns: Columns | None, split_by: str | None = None) -> None:
        if columns:
            named = columns.model_dump(exclude_none=True).items()
            wanted = [
                (f"ingest.columns.{key}", (name,)) for key, name in named if key not in ("group", "role", "content")
            ]
        else:
            wanted = [("ingest.format", names) for names in NEEDED[form]]
        self.missing = [*wanted, *([("ingest.split_by", (split_by,))] if split_by else [])]
        self.first: list[Any] = []

    def look(self, row: Any) -> None:
        if len(self.first) < FIRST_ROWS:
            self.first.append(row)
        if self.missing:
            self.missing = [
                (key, names) for key, names in self.missing if not any(field(row, name) is not None for name in names)
            ]

    def require_none(self, where: object) -> None:
        """Raises UserError where a field is missing still."""
        for key, names in self.missing:
            do = f"fields found: {list_fields(self.first)}; correct {key} in params.yaml"
            raise UserError(f"no row has the field '{names[0]}' that {key} asks for", where=where, do=do)
