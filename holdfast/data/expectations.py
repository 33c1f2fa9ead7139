"""What Holdfast expects of instructions, scores, replay set and row counts: Great Expectations suites as code.

Run by `holdfast quality`. Each expectation says in its meta, in plain words, what it expects and what to do when it
fails. `mostly` is Great Expectations' word for the smallest part of the rows that must comply.
"""

from __future__ import annotations

import math
from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from holdfast.data.expectation_parts import REBUILD, length_quantiles, meta, not_null, rest, schema
from holdfast.params.quality import Quality

JOINED = [f"candidate_{column}" for column in ("instruction", "response_id", "response")]
LENGTHS = ["instruction_characters", "response_characters"]
# column: least, most
RANGES = {"agreement": (0, 1), "score_std": (0, 2), "n_judges": (0, None), "difficulty": (0, None)}
SHORTER_INSTRUCTIONS = "lower curate.max_chars, or raise quality.max_instruction_chars"


def instructions(params: Quality, raw: int) -> list[Expectation]:
    """On kept and rejected rows together; the column `outcome` tells them apart."""
    kept: dict[str, Any] = dict(row_condition='outcome=="kept"', condition_parser="pandas")
    found: list[Expectation] = [
        gxe.ExpectTableRowCountToEqual(
            value=raw,
            meta=meta(f"kept + rejected = the {raw:,} raw rows", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeUnique(
            column="id",
            meta=meta("no id stands twice", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeUnique(
            column="asked",
            **kept,
            meta=meta("no two kept texts are equal", REBUILD),
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column="text",
            regex=r"\S",
            **kept,
            meta=meta("no kept text is blank", "raise curate.min_chars"),
        ),
        gxe.ExpectColumnValueLengthsToBeBetween(
            column="text",
            max_value=params.max_instruction_chars,
            **kept,
            meta=meta(f"kept texts have at most {params.max_instruction_chars:,} characters", SHORTER_INSTRUCTIONS),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="finish",
            value_set=["stop", "length"],
            meta=meta("finish is stop or length", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="finish",
            value_set=["stop"],
            mostly=rest(params.max_unfinished),
            meta=meta(
                f"at most {params.max_unfinished:.4g} of the raw rows are unfinished",
                "raise reconstruct.max_tokens, or quality.max_unfinished",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="cluster",
            min_value=0,
            **kept,
            meta=meta("every kept row has a cluster", REBUILD),
        ),
    ]
    found += not_null("id", "text", "finish", "model", "revision", "cluster")
    return found + [
        schema("instructions_rejected", "cluster", "asked", "outcome", "characters"),
        length_quantiles(params, "kept text", "characters", SHORTER_INSTRUCTIONS, **kept),
    ]


def scores(params: Quality, judges: list[str]) -> list[Expectation]:
    """On the scores of all judges together."""
    found: list[Expectation] = [
        schema("scores"),
        gxe.ExpectColumnValuesToBeInSet(
            column="judge",
            value_set=judges,
            meta=meta("every judge is of the panel", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="mass",
            min_value=0,
            max_value=1,
            meta=meta("the probability on the score tokens is 0 to 1", REBUILD),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["judge", "id"],
            meta=meta("a judge scores a response once", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="score",
            min_value=1,
            max_value=5,
            meta=meta("scores are 1 to 5", REBUILD),
        ),
        gxe.ExpectColumnValuesToNotBeNull(
            column="score",
            mostly=rest(params.max_null_scores),
            meta=meta(
                f"at most {params.max_null_scores:.4g} of the scores are missing",
                "correct judge.rubric, lower judge.min_mass, take a silent judge out of panel, "
                "or raise quality.max_null_scores",
            ),
        ),
    ]
    for judge in judges:
        varied = meta(
            f"the scores of judge {judge!r} vary by {params.min_score_spread:.4g} or more",
            "a judge that gives everything one score decides nothing: correct judge.rubric, take it out of panel, "
            "or lower quality.min_score_spread",
        )
        found.append(
            gxe.ExpectColumnStdevToBeBetween(
                column="score",
                min_value=params.min_score_spread,
                row_condition=f"judge=={judge!r}",
                condition_parser="pandas",
                severity=FailureSeverity.WARNING,
                meta=varied,
            )
        )
    return found + not_null("id", "instruction_id", "judge")


def counts() -> list[Expectation]:
    """On one row per stage: the rows that it read, and the rows that it kept or rejected."""

    nothing_lost = meta("every stage accounts for each row that it read", REBUILD)
    return [gxe.ExpectColumnPairValuesToBeEqual(column_A="read", column_B="accounted", meta=nothing_lost)]


def replay(params: Quality, models: list[str], clusters: int) -> list[Expectation]:
    """On the replay set, with `candidate_*` columns joined to it.

    `models`: who wrote its responses; `clusters`: how many the kept instructions fall into.
    """
    found = not_null("id", "instruction", "response", "response_id", "model", "score", "cluster")
    for column, (least, most) in RANGES.items():
        inside = meta(f"{column} is {f'{least} to {most}' if most is not None else f'{least} or more'}", REBUILD)
        found.append(gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, meta=inside))
    found += [
        schema("replay", *JOINED, *LENGTHS, "sole_author"),
        gxe.ExpectColumnValuesToBeUnique(
            column="id",
            meta=meta("no instruction stands twice", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="score",
            min_value=1,
            max_value=5,
            meta=meta("scores are 1 to 5", REBUILD),
        ),
        gxe.ExpectTableRowCountToBeBetween(
            min_value=params.min_rows,
            meta=meta(
                f"at least {params.min_rows:,} rows",
                "raise reconstruct.samples or balance.rows, or lower quality.min_rows",
            ),
        ),
        gxe.ExpectColumnUniqueValueCountToBeBetween(
            column="cluster",
            min_value=params.min_clusters,
            meta=meta(
                f"at least {params.min_clusters:,} clusters",
                "raise reconstruct.samples or curate.clusters, or lower quality.min_clusters",
            ),
        ),
        gxe.ExpectColumnUniqueValueCountToBeBetween(
            column="cluster",
            min_value=math.ceil(round(params.min_cluster_coverage * clusters, 9)),
            severity=FailureSeverity.WARNING,
            meta=meta(
                f"at least {params.min_cluster_coverage:.4g} of the {clusters:,} clusters of kept instructions",
                "raise balance.rows, lower consensus.min_score or quality.min_cluster_coverage",
            ),
        ),
    ]
    shorter_responses = "lower respond.max_tokens, or raise quality.max_response_chars"
    denied = "look at these rows: draw others (respond.seed, reconstruct.seed), or correct quality.deny"
    for column, longest, remedy in (
        ("instruction", params.max_instruction_chars, SHORTER_INSTRUCTIONS),
        ("response", params.max_response_chars, shorter_responses),
    ):
        found += [
            gxe.ExpectColumnValuesToMatchRegex(
                column=column,
                regex=r"\S",
                meta=meta(f"no {column} is blank", REBUILD),
            ),
            gxe.ExpectColumnValueLengthsToBeBetween(
                column=column,
                max_value=longest,
                meta=meta(f"{column}s have at most {longest:,} characters", remedy),
            ),
        ]
        found.append(length_quantiles(params, column, f"{column}_characters", remedy))
        for pattern in params.deny:
            no_match = meta(f"no {column} matches {pattern!r}", denied)
            found.append(gxe.ExpectColumnValuesToNotMatchRegex(column=column, regex=pattern, meta=no_match))
    for column in ("instruction", "response_id", "response"):
        same = meta(f"every {column} is that of a candidate", "`dvc repro --force balance`, then `dvc repro`")
        found.append(gxe.ExpectColumnPairValuesToBeEqual(column_A=column, column_B=f"candidate_{column}", meta=same))
    for model in models:
        found.append(
            gxe.ExpectColumnValuesToNotBeInSet(
                column="sole_author",
                value_set=[model],
                mostly=rest(params.max_model_share),
                severity=FailureSeverity.WARNING,
                meta=meta(
                    f"at most {params.max_model_share:.4g} of the rows are what model {model!r} alone said",
                    "read the judges' audit: does a judge favour its own responses? (quality.max_model_share)",
                ),
            )
        )
    return found
