"""What Holdfast expects of instructions, scores, replay set and row counts: Great Expectations suites as code.

`quality` validates them. Each expectation says in its meta, in plain words, what it expects and what to do when
it fails. `mostly` is Great Expectations' word for the smallest part of the rows that must comply.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from holdfast.data import quality_tables
from holdfast.data.expectation_kinds import REBUILD, columns_of, complement, describe, length_quantiles, not_null
from holdfast.data.quality_tables import Tables
from holdfast.params.quality import Quality

# column: lowest, highest value
UNJUDGED = {"tools", "thinking"}  # families that no judge is asked about
RANGES = {"agreement": (0, 1), "score_std": (0, 2), "n_judges": (0, None), "difficulty": (0, None)}
SHORTER_INSTRUCTIONS = "lower curate.max_chars, or raise quality.max_instruction_chars"


class Suite(NamedTuple):
    frame: pd.DataFrame  # with a column `id`
    expectations: list[Expectation]


def build_suites(params: Quality, panel: list[str], tables: Tables) -> dict[str, Suite]:
    """Every suite with the rows that it is about, by name."""
    instructions = quality_tables.join_instructions(tables)
    replay = quality_tables.join_replay_with_candidates(tables)
    models, clusters = sorted(tables["replay"]["model"].unique()), tables["kept"]["cluster"].nunique()
    families = set(tables["replay"]["family"])
    judged = len(tables["scores"]) > 0  # else no judge was asked (consensus.strategy: first)
    scores = {"scores": Suite(tables["scores"], expect_of_scores(params, panel))} if judged else {}
    return {
        "instructions": Suite(instructions, expect_of_instructions(params, len(tables["raw"]))),
        **scores,
        "replay": Suite(replay, expect_of_replay(params, models if len(panel) > 1 else [], clusters, judged, families)),
        "counts": Suite(quality_tables.frame_of_flow(tables, panel), expect_of_counts()),
    }


def expect_of_instructions(params: Quality, raw: int) -> list[Expectation]:
    """On kept, held-out and rejected rows together; the column `outcome` tells them apart. `raw`: rows that `curate` read."""
    only_kept: dict[str, Any] = dict(row_condition='outcome=="kept"', condition_parser="pandas")
    expectations: list[Expectation] = [
        gxe.ExpectTableRowCountToEqual(
            value=raw,
            meta=describe(f"kept + held out + rejected = the {raw:,} raw rows", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeUnique(
            column="id",
            meta=describe("no id appears twice", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeUnique(
            column="asked",
            row_condition='outcome!="rejected"',
            condition_parser="pandas",
            meta=describe("no two kept or held-out texts are equal", REBUILD),
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column="text",
            regex=r"\S",
            **only_kept,
            meta=describe("no kept text is blank", "raise curate.min_chars"),
        ),
        gxe.ExpectColumnValueLengthsToBeBetween(
            column="text",
            max_value=params.max_instruction_chars,
            **only_kept,
            meta=describe(f"kept texts have at most {params.max_instruction_chars:,} characters", SHORTER_INSTRUCTIONS),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="finish_reason",
            value_set=["stop", "length"],
            meta=describe("finish_reason is stop or length", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="finish_reason",
            value_set=["stop"],
            mostly=complement(params.max_unfinished),
            row_condition='family!="lookalikes"',  # which are cut where most of the domain's turns end
            condition_parser="pandas",
            meta=describe(
                f"at most {params.max_unfinished:.4g} of the raw rows are unfinished",
                "raise reconstruct.max_tokens, or quality.max_unfinished",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="cluster",
            min_value=0,
            **only_kept,
            meta=describe("every kept row has a cluster", REBUILD),
        ),
    ]
    expectations += not_null("id", "text", "finish_reason", "model", "revision", "cluster")
    return [
        *expectations,
        columns_of("instructions_rejected", "cluster", "bait", *quality_tables.ADDED_TO_INSTRUCTIONS),
        length_quantiles(params, "kept text", "characters", SHORTER_INSTRUCTIONS, **only_kept),
    ]


def expect_of_scores(params: Quality, judges: list[str]) -> list[Expectation]:
    """On the scores of all judges together."""
    expectations: list[Expectation] = [
        columns_of("scores"),
        gxe.ExpectColumnValuesToBeInSet(
            column="judge",
            value_set=judges,
            meta=describe("every judge is of the panel", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="mass",
            min_value=0,
            max_value=1,
            meta=describe("the probability on the score tokens is 0 to 1", REBUILD),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["judge", "id"],
            meta=describe("a judge scores a response once", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="score",
            min_value=1,
            max_value=5,
            meta=describe("scores are 1 to 5", REBUILD),
        ),
        gxe.ExpectColumnValuesToNotBeNull(
            column="score",
            mostly=complement(params.max_null_scores),
            meta=describe(
                f"at most {params.max_null_scores:.4g} of the scores are missing",
                "correct judge.rubric, lower judge.min_mass, take a silent judge out of panel, "
                "or raise quality.max_null_scores",
            ),
        ),
    ]
    for judge in judges:
        varied = describe(
            f"the scores of judge {judge!r} vary by {params.min_score_spread:.4g} or more",
            "a judge that gives everything one score decides nothing: correct judge.rubric, take it out of panel, "
            "or lower quality.min_score_spread",
        )
        expectations.append(
            gxe.ExpectColumnStdevToBeBetween(
                column="score",
                min_value=params.min_score_spread,
                row_condition=f"judge=={judge!r}",
                condition_parser="pandas",
                severity=FailureSeverity.WARNING,
                meta=varied,
            )
        )
    return expectations + not_null("id", "instruction_id", "judge")


def expect_of_counts() -> list[Expectation]:
    """On one row per stage: the rows that it read, and the rows that it kept or rejected."""

    nothing_lost = describe("every stage accounts for each row that it read", REBUILD)
    return [gxe.ExpectColumnPairValuesToBeEqual(column_A="read", column_B="accounted", meta=nothing_lost)]


def expect_of_replay(
    params: Quality, models: list[str], clusters: int, judged: bool, families: set[str]
) -> list[Expectation]:
    """On the replay set, with `candidate_*` columns joined to it.

    `models`: who wrote its responses, where a panel of several did; `clusters`: how many the kept instructions fall into; `judged`: whether judges
    were asked, so that each row has a score, but for those of the `families` in UNJUDGED.
    """
    expectations = not_null("id", "instruction", "response", "response_id", "model", "cluster")
    if judged:  # beside tools no judge is asked
        condition: dict[str, Any] = {}
        if UNJUDGED & families:
            condition = dict(row_condition=f"family not in {sorted(UNJUDGED)}", condition_parser="pandas")
        meta = describe("every row has score", REBUILD)
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column="score", meta=meta, **condition))
    for column, (lowest, highest) in RANGES.items():
        inside = describe(
            f"{column} is {f'{lowest} to {highest}' if highest is not None else f'{lowest} or more'}", REBUILD
        )
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(column=column, min_value=lowest, max_value=highest, meta=inside)
        )
    expectations += [
        columns_of("replay", *quality_tables.ADDED_TO_REPLAY),
        gxe.ExpectColumnValuesToBeUnique(
            column="id",
            meta=describe("no instruction appears twice", REBUILD),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="score",
            min_value=1,
            max_value=5,
            meta=describe("scores are 1 to 5", REBUILD),
        ),
        gxe.ExpectTableRowCountToBeBetween(
            min_value=params.min_rows,
            meta=describe(
                f"at least {params.min_rows:,} rows",
                "raise reconstruct.samples or balance.rows, or lower quality.min_rows",
            ),
        ),
        gxe.ExpectColumnUniqueValueCountToBeBetween(
            column="cluster",
            min_value=params.min_clusters,
            meta=describe(
                f"at least {params.min_clusters:,} clusters",
                "raise reconstruct.samples or curate.clusters, or lower quality.min_clusters",
            ),
        ),
        gxe.ExpectColumnUniqueValueCountToBeBetween(
            column="cluster",
            min_value=math.ceil(round(params.min_cluster_coverage * clusters, 9)),
            severity=FailureSeverity.WARNING,
            meta=describe(
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
        expectations += [
            gxe.ExpectColumnValuesToMatchRegex(
                column=column,
                regex=r"\S",
                meta=describe(f"no {column} is blank", REBUILD),
            ),
            gxe.ExpectColumnValueLengthsToBeBetween(
                column=column,
                max_value=longest,
                meta=describe(f"{column}s have at most {longest:,} characters", remedy),
            ),
        ]
        expectations.append(length_quantiles(params, column, f"{column}_characters", remedy))
        for pattern in params.deny:
            no_match = describe(f"no {column} matches {pattern!r}", denied)
            expectations.append(gxe.ExpectColumnValuesToNotMatchRegex(column=column, regex=pattern, meta=no_match))
    for column in ("instruction", "response_id", "response"):
        same = describe(f"every {column} is that of a candidate", "`dvc repro --force balance`, then `dvc repro`")
        expectations.append(
            gxe.ExpectColumnPairValuesToBeEqual(column_A=column, column_B=f"candidate_{column}", meta=same)
        )
    for model in models:
        expectations.append(
            gxe.ExpectColumnValuesToNotBeInSet(
                column="sole_author",
                value_set=[model],
                mostly=complement(params.max_model_share),
                severity=FailureSeverity.WARNING,
                meta=describe(
                    f"at most {params.max_model_share:.4g} of the rows are what model {model!r} alone said",
                    "read the judges' audit: does a judge favour its own responses? (quality.max_model_share)",
                ),
            )
        )
    return expectations
