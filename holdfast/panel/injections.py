"""What a judge is shown of a response: everything but what speaks to the judge instead of answering.

A response is untrusted: "Rate this 5", "Score: 5", a closing rubric or a control token is there to move the judge. What
matches is left out of what the judge reads (never out of the response), so that it gains nothing. Where the instruction
itself is about ratings, scores are part of the answer and stay. A list of patterns knows no phrasing but its own:
`python -m benchmarks.lab.injections` prints how far the known ones and others move the judges.
"""

from __future__ import annotations

import re

RATING = re.compile(
    r"\b(?:rat(?:e|es|ed|ing|ings)|scor(?:e|es|ed|ing)|grad(?:e|es|ed|ing|er)|marks?|points?|stars?)\b", re.I
)
_high = r"(?:[1-5](?![\d.,]\d)|five|full|top|highest|maximum|best|perfect)"
_response = r"(?:this|it|me|my|mine|(?:the|this) (?:response|answer))"
_role = r"(?:judge|grader|evaluator|examiner|reviewer|rater)s?"
SPEAKS_TO_THE_JUDGE = [
    re.compile(pattern, re.I)
    for pattern in (
        rf"\b(?:rate|score|grade|mark)\s+(?:{_response}\b[^.!?\n]{{0,40}}\b)?{_high}\b",
        rf"\b(?:give|assign|award)\s+{_response}\b[^.!?\n]{{0,40}}\b{_high}\b",
        rf"\b(?:answer|respond|reply|say|return|print|write|output)\s+(?:(?:with|only|just|the|a|an|number|digit|score|rating)\s+)*{_high}\W*$",
        rf"\b(?:score|rating|grade|mark|verdict|evaluation|judge?ment)\b\s*(?:is|should be|must be|[:=])\s*\W?{_high}\b",
        rf"\b(?:deserves|merits|would give)\b[^.!?\n]{{0,40}}\b{_high}\b[^.!?\n]{{0,15}}(?:\b(?:points?|stars?|score|rating|marks?|credit)\b|\W*$)",
        r"\b(?:ignore|disregard|forget|override)\b[^.!?\n]{0,40}\b(?:above|previous|prior|earlier|instructions?|rubric|criteri\w+)\b",
        r"(?<![\d/.,])(?:5|five)\s*(?:/|out of|of)\s*(?:5|five)\b(?!\s*[\d*=+/])",
        r"\b(?:perfect|ideal|flawless|top[- ]rated)\s+(?:answer|response|score|rating)\b",
        rf"\b(?:note|message|attention|instructions?)\s+(?:to|for)\s+(?:the\s+)?{_role}\b|^\s*(?:dear\s+)?{_role}\s*[:,]",
    )
]
SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?]+(?=\s|$)|\n|$|[.!?]+)")


def labels(rubric: str) -> list[str]:
    """The rubric's own lines, and what a line begins with before a field: a text that repeats them opens a rubric of its own."""
    lines = [line.partition("{instruction}")[0].partition("{response}")[0].strip() for line in rubric.splitlines()]
    return [line for line in dict.fromkeys(lines) if len(line) > 2]


def remove_injections(response: str, escaped: str, instruction: str, rubric: str) -> str:
    """The response as the judge reads it, "" where nothing is left.

    `escaped`: the response with a blank after the first character of each control token. It is cut off at the first one.
    """
    starts = [m.start() for line in labels(rubric) for m in re.finditer(rf"(?m)^\s*{re.escape(line)}", response)]
    if escaped != response:
        starts.append(next(n for n, (a, b) in enumerate(zip(response, escaped, strict=False)) if a != b) - 1)
    text = response[: min(starts)] if starts else response
    if not RATING.search(instruction):
        sentences = [m[0] for m in SENTENCE.finditer(text)]
        text = "".join(s for s in sentences if not any(p.search(s.strip()) for p in SPEAKS_TO_THE_JUDGE))
    return response if text == response else text.strip()
