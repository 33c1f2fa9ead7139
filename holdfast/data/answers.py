"""The final answer in what a model wrote: out of a box, a fence, a sentence, with typographic marks and trailing talk.

lm-eval's task files can use it as the filter `final_answer`; `evaluate.domain_test: answer` compares answers with it.
"""

from __future__ import annotations

import re

# what keyboards do not have, as they spell it; zero-width characters go
PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u00a0\u2007\u2009\u202f", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")
)
BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{")
FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
SAID = re.compile(r"\banswer(?:\s{1,9}is)?\s{0,9}[*_]{0,3}\s{0,9}(?::|=|(?<=is)\b)\s*", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<![A-Z])(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bSt)[.!?](?=[\"')*_$\]]*(?:\s|$))")
WRAPPERS = [("__", "__"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("'", "'"), ('"', '"')]
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")


def final_answer(text: str) -> str:
    """The answer alone, on one line. The first of these that the text holds: the last \\boxed{...}, the last `#### ...`,
    what follows the last "answer is" or "answer:", the last fenced block, the first line that is not empty."""
    if (boxed := last_box(text)) is not None:
        return bare(boxed)
    if marked := re.findall(r"^[ \t]*####[ \t]*(\S.*)$", text, re.MULTILINE):
        return bare(marked[-1])
    if said := list(SAID.finditer(text)):
        return bare(sentence(first_line(text[said[-1].end() :])))
    return bare(first_line(text))


def last_box(text: str) -> str | None:
    """What the last \\boxed{...} or \\fbox{...} holds, inner braces counted; None where there is none that closes."""
    starts = {found.end() for found in BOX.finditer(text)}
    opened: list[int] = []  # where each brace begins that is still open
    closed: list[tuple[int, int]] = []
    for brace in re.finditer(r"[{}]", text) if starts else ():
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) in starts:
            closed.append((start, brace.start()))
    return text[slice(*max(closed))] if closed else None


def first_line(text: str) -> str:
    """The first line of the last fenced block if there is one, or of the text."""
    fenced = [block[2] for block in FENCE.finditer(text) if block[2].strip()]
    return next((line for line in (fenced[-1] if fenced else text).splitlines() if line.strip()), "")


def sentence(text: str) -> str:
    """Up to where the sentence ends; a full stop inside a number or after an initial does not end it."""
    end = SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def bare(answer: str) -> str:
    r"""Without the marks around it: emphasis, quotes, dollars, \text{...}, a full stop; spaces and apostrophes plain."""
    answer = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", answer)
    answer = " ".join(answer.translate(PLAIN).split())
    while True:
        before = answer
        answer = answer.rstrip(".!;, ").lstrip(": ")
        answer = answer.strip("* ") or answer  # emphasis, of which a sentence may have kept one half
        for opening, closing in WRAPPERS:
            inner = answer[len(opening) : -len(closing)]
            if answer.startswith(opening) and answer.endswith(closing) and inner and closing not in inner:
                answer = inner.strip()
        if answer == before:
            return answer


def same(answer: str, expected: str) -> bool:
    """Whether two texts end in the same answer: as numbers if both are, else letter by letter, case aside."""
    given, wanted = final_answer(answer), final_answer(expected)
    if (a := number(given)) is not None and (b := number(wanted)) is not None:
        return a == b
    return bool(wanted) and given.casefold() == wanted.casefold()


def number(text: str) -> float | None:
    """1,234.50 and $1234.5 are one number; a text with more in it than that is none."""
    text = text.removeprefix("$").removeprefix("\\$").strip()
    return float(text.replace(",", "")) if NUMBER.fullmatch(text) else None


def register() -> None:
    """Makes `final_answer` known to lm-eval: `filter_list: [{name: final, filter: [{function: final_answer}, {function: take_first}]}]`."""
    from lm_eval.api.filter import Filter
    from lm_eval.api.registry import filter_registry, register_filter

    if "final_answer" in filter_registry:
        return

    @register_filter("final_answer")
    class FinalAnswer(Filter):
        def apply(self, resps, docs):  # type: ignore[no-untyped-def]
            return [[final_answer(text) for text in texts] for texts in resps]
