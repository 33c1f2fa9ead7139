"""Untrusted text made inert in HTML and in Markdown; numbers and tables for both.

A Table holds plain strings; nothing is escaped before it is rendered, and everything is escaped when it is.
"""

from __future__ import annotations

import html as stdlib_html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard
from urllib.parse import urlencode

NONE = "–"
CHANGES, LINKS = "<!-- changes -->", "<!-- links -->"  # where `holdfast comment` puts what only a pull request has
NUMBER = 24  # characters up to which a cell of numbers is set as one; what is longer, a list say, may wrap
# Control, format and surrogate characters (Unicode Cc, Cf, Cs) and line separators: they reorder, hide or break text.
# Newline and tab stay, and so do the two joiners U+200C and U+200D, which Indic scripts, Persian and emoji need.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f]+"
)
VERDICTS = {"pass": ("✓", "Pass"), "fail": ("✕", "Fail"), "cannot-compare": ("?", "Cannot compare")}
Kind = Literal["text", "number", "verdict", "quote", "lost", "gained"]


def clean(text: object, limit: int = 400) -> str:
    """Plain text of at most `limit` characters (and a note on how many there were), with hidden characters shown."""
    whole = str(text)
    cut = whole[:limit].replace("\r\n", "\n").replace("\r", "\n")
    shown = HIDDEN.sub(_spell_out, cut)
    return shown if len(whole) <= limit else f"{shown} … ({len(whole):,} characters)"


def _spell_out(match: re.Match[str]) -> str:
    run = [f"U+{ord(character):04X}" for character in match[0]]
    return f"[{' '.join(run)}]" if len(run) <= 8 else f"[{run[0]} and {len(run) - 1} more hidden characters]"


def html(text: object, limit: int = 400) -> str:
    """For element content and double-quoted attributes."""
    return stdlib_html.escape(clean(text, limit), quote=True)


def embed_json(content: Any) -> str:
    """JSON for a <script type="application/json">: no character that could end the element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def markdown(text: object, limit: int = 400) -> str:
    """Our own words and names as Markdown prose on one line, in a table or out of it: no markup, mention or reference."""
    line = clean(text, limit).replace("\n", " ").replace("\t", " ")
    line = re.sub(r"([\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w))", r"\\\1", line)  # inside a word an underscore is no markup
    line = re.sub(
        r"([@#!])(?=\w|\\)", "\\1\u200b", line
    )  # an entity would not do: mentions are looked for after decoding
    return re.sub(r"(?i)\b(https?:|ftp:|www\.|GH-)", "\\1\u200b", line)  # bare addresses become links


def summary_line(text: object, limit: int = 400) -> str:
    """For a <summary> in Markdown: HTML there, but mentions are still looked for."""
    return html(clean(text, limit).replace("\n", " ")).replace("@", "@\u200b")


def quote(text: object, limit: int = 300, *, cell: bool = False) -> str:
    """What a model wrote, as one Markdown code span: inside it nothing is markup. The zero-width space after @ is for
    readers that look for mentions in the raw text. A pipe ends a table cell even in code, hence the look-alike there."""
    line = clean(text, limit).replace("\n", " ⏎ ").replace("\t", " ").strip().replace("@", "@\u200b")
    line = line.replace("|", "¦") if cell else line
    if not line:
        return "*(empty)*"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def count(value: Any) -> str:
    return f"{value:,.0f}" if is_number(value) else NONE


def decimal(value: Any, digits: int = 2) -> str:
    return _minus(f"{value:,.{digits}f}") if is_number(value) else NONE


def percent(value: Any, digits: int = 1) -> str:
    """A part of one as per cent, with a no-break space."""
    return _minus(f"{100 * value:.{digits}f}") + "\u00a0%" if is_number(value) else NONE


def score(value: Any) -> str:
    return _minus(f"{100 * value:.1f}") if is_number(value) else NONE


def points(value: Any) -> str:
    """A difference of scores in points, with its sign."""
    return _minus(f"{100 * value:+.1f}").replace("+0.0", "0.0").replace("−0.0", "0.0") if is_number(value) else NONE


def interval(low: Any, high: Any) -> str:
    return f"{points(low)} to {points(high)}" if is_number(low) and is_number(high) else NONE


def p_value(value: Any) -> str:
    return NONE if not is_number(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _minus(number: str) -> str:
    return number.replace("-", "−")


@dataclass(frozen=True)
class Column:
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Cells are plain strings, one per column. `arm` makes lost and gained counts lead to the items behind them."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    arm: str = ""
    caption: str = ""
    strong: frozenset[int] = field(default_factory=frozenset)  # rows to set apart: totals


def badge(verdict: object, words: str = "") -> str:
    """`words`: instead of the verdict's usual ones."""
    sign, word = VERDICTS.get(str(verdict), ("", str(verdict)))
    word = words or word
    known_class = str(verdict) if str(verdict) in VERDICTS else "other"
    return (
        f'<span class="badge {known_class}"><span aria-hidden="true">{sign}</span> {html(word)}</span>'
        if sign
        else html(word)
    )


def html_table(table: Table) -> str:
    numeric = {"number", "lost", "gained"}
    head = "".join(f'<th scope="col"{_class(c.kind in numeric, "n")}>{html(c.title)}</th>' for c in table.columns)
    body = []
    for index, row in enumerate(table.rows):
        cells = []
        for position, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            if position == 0 and column.kind != "quote":
                cells.append(f'<th scope="row">{html(cell)}</th>')
            elif column.kind == "verdict":
                cells.append(f'<td class="ruled {html(cell)}">{html(_sign_and_word(cell))}</td>')
            elif column.kind in ("lost", "gained") and table.arm and cell not in (NONE, "0"):
                wanted = urlencode({"arm": table.arm, "suite": row[0], "outcome": column.kind})
                cells.append(f'<td class="n {column.kind}"><a href="#items?{html(wanted)}">{html(cell)}</a></td>')
            else:
                number = column.kind in numeric and len(cell) <= NUMBER
                cells.append(f"<td{_class(number, 'n')}{_class(column.kind == 'quote', 'quote')}>{html(cell)}</td>")
        body.append(f"<tr{_class(index in table.strong, 'strong')}>{''.join(cells)}</tr>")
    caption = f"<caption>{html(table.caption)}</caption>" if table.caption else ""
    # focusable, since a table wider than the screen scrolls sideways and a keyboard must reach it too
    narrow = _class(len(table.columns) <= 3, "narrow")
    content = f"<table{narrow}>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{content}</div>'


def _sign_and_word(verdict: str) -> str:
    sign, word = VERDICTS.get(verdict, ("", verdict))
    return f"{sign} {word.lower()}".strip()


def _class(when: bool, name: str) -> str:
    return f' class="{name}"' if when else ""


def section(name: str, *content: str, note: str = "") -> str:
    lead = f'<p class="note">{note}</p>' if note else ""
    return f'<section id="{name.lower()}"><h2>{name}</h2>{lead}{"".join(content)}</section>'


def titled_table(title: str, table: Table, absent: str = "not available") -> str:
    return f"<h3>{html(title)}</h3>" + (html_table(table) if table.rows else f'<p class="absent">{html(absent)}</p>')


def fold(title: str, content: str) -> str:
    return f"<details><summary>{html(title)}</summary>{content}</details>"


def markdown_table(table: Table, budget: int) -> str:
    """At most `budget` characters; says how many rows it left out."""
    numeric = {"number", "lost", "gained"}
    head = "| " + " | ".join(markdown(c.title) for c in table.columns) + " |"
    rule = "|" + "|".join("---:" if c.kind in numeric else "---" for c in table.columns) + "|"
    lines = []
    for index, row in enumerate(table.rows):
        cells = [
            _markdown_cell(c.kind, cell, strong=index in table.strong)
            for c, cell in zip(table.columns, row, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    shown = take_fitting(lines, budget - len(head) - len(rule) - 100)
    if left_out := len(lines) - len(shown):
        shown.append(f"\n{left_out:,} more rows stand in index.html.")
    return "\n".join([head, rule, *shown])


def _markdown_cell(kind: Kind, cell: str, *, strong: bool) -> str:
    if kind == "verdict":
        return f"**{markdown(_sign_and_word(cell))}**" if cell == "fail" else markdown(_sign_and_word(cell))
    shown = quote(cell, cell=True) if kind == "quote" else markdown(cell)
    return f"**{shown}**" if strong and shown else shown


def take_fitting(lines: Sequence[str], budget: int) -> list[str]:
    """As many of the first lines as fit, newlines counted."""
    first: list[str] = []
    for line in lines:
        budget -= len(line) + 1
        if budget < 0:
            break
        first.append(line)
    return first


def numbers(content: Any) -> list[tuple[str, Any]]:
    return [(str(k), v) for k, v in content.items() if is_number(v)] if isinstance(content, dict) else []


def scalar(value: Any) -> str:
    if value is None:
        return NONE
    return (
        (count(value) if isinstance(value, int) else f"{value:.4g}".replace("-", "−"))
        if is_number(value)
        else str(value)
    )


def words(key: str) -> str:
    return key.replace("_", " ").capitalize()
