"""Quality: good rows pass, each critical expectation stops the stage and says why, same rows give the same bytes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers import response, run_stage

from holdfast.core import records
from holdfast.core.errors import UserError
from holdfast.data import expectation_suites, quality_tables, validation
from holdfast.data.expectation_kinds import complement
from holdfast.params.quality import Quality

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> $HOME ${column} $$ %s {{ 7*7 }} </div> @everyone"
PARAMS: dict[str, Any] = dict(
    min_rows=8, min_clusters=3, max_model_share=0.6, max_response_chars=60, deny=[r"<\|im_(start|end)\|>"]
)
Rows = list[dict[str, Any]]


class Lab:
    """The files that quality reads, as rows to spoil: 20 raw instructions, 16 kept, 12 candidates, 10 replayed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.out = folder, folder / "data", folder / "reports" / "quality"
        sampled = dict(family="plain", context=[], n_tokens=4, temperature=1.0, top_p=1.0)
        sampled |= dict(sample=0, seed=1, model="base", revision="r")
        self.raw: Rows = [
            dict(id=f"{n:016x}", text=f"Question {n}?", finish_reason="stop" if n < 16 else "length", **sampled)
            for n in range(20)
        ]
        self.kept: Rows = [row | dict(cluster=n % 4, bait=False) for n, row in enumerate(self.raw[:16])]
        self.held_out: Rows = []
        self.rejected: Rows = [row | dict(reason="unfinished", detail="") for row in self.raw[16:]]
        self.scores: Rows = [
            dict(
                id=f"{n:016x}",
                instruction_id=f"{n:016x}",
                judge=judge,
                score=None if n == 0 else 4.5 - n % 3,
                mass=0.9,
                logprob=None,
                tokens=9,
                audit=True,
            )
            for judge in ("base", "other")
            for n in range(16)
        ]
        self.candidates: Rows = [
            dict(
                id=row["id"],
                family="plain",
                context=[],
                instruction=row["text"],
                response=f"Answer {n}.",
                response_id=f"r{n}",
                model=("base", "other")[n % 2],
                revision="r",
                score=4.5,
                score_std=0.0,
                n_judges=2,
                agreement=1.0,
                base_logprob=-0.1,
                refusal=False,
                cluster=row["cluster"],
            )
            for n, row in enumerate(self.kept[:12])
        ]
        self.replay: Rows = [row | dict(difficulty=0) for row in self.candidates[:10]]
        self.surplus: Rows = [row | dict(difficulty=0) for row in self.candidates[10:]]
        unanswered = dict(response="", response_id="", model="", revision="", score=None, score_std=None, n_judges=0)
        self.unanswered: Rows = [
            self.candidates[0] | unanswered | dict(id=row["id"], reason="no answer") for row in self.kept[12:]
        ]
        self.responses: Rows = [
            response(f"{n:016x}", ("base", "other")[n % 2], 0, f"Answer {n}.") | dict(id=f"{n:016x}") for n in range(16)
        ]

    def write(self) -> None:
        for name in ("raw", "kept", "rejected"):
            records.write(f"instructions_{name}", self.data / "instructions" / f"{name}.parquet", getattr(self, name))
        records.write("instructions_kept", self.data / "instructions" / "held_out.parquet", self.held_out)
        for judge in ("base", "other"):
            rows = [row for row in self.scores if row["judge"] == judge]
            records.write("scores", self.data / "scores" / f"{judge}.parquet", rows)
        records.write("candidates", self.data / "replay" / "candidates.parquet", self.candidates)
        for member in ("base", "other"):
            rows = [row for row in self.responses if row["model"] == member]
            records.write("responses", self.data / "responses" / f"{member}.parquet", rows)
        records.write("replay", self.data / "replay" / "replay.parquet", self.replay)
        records.write("replay", self.data / "replay" / "surplus.parquet", self.surplus)
        records.write("candidates_rejected", self.data / "replay" / "rejected.parquet", self.unanswered)

    def run(self, **changed: Any) -> dict[str, Any]:
        self.write()
        self.check(**changed)
        return self.summary()

    def check(self, **changed: Any) -> None:
        """The stage on the files as they are."""
        params = {"panel": ["base", "other"], "quality": PARAMS | changed}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        with contextlib.chdir(self.folder):
            run_stage("quality")

    def fails(self, **changed: Any) -> str:
        with pytest.raises(UserError) as caught:
            self.run(**changed)
        assert 1 <= len(str(caught.value).splitlines()) <= 3
        return str(caught.value)

    def summary(self) -> dict[str, Any]:
        return json.loads((self.out / "quality.json").read_text(encoding="utf-8"))

    def failed(self) -> list[tuple[str, str]]:
        suites = self.summary()["suites"].items()
        return [
            (name, result["expectation"])
            for name, suite in suites
            for result in suite["results"]
            if not result["success"]
        ]

    def pages(self) -> dict[str, bytes]:
        folder = self.out / "data_docs"
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.mark.filterwarnings("error::UserWarning")
def test_good_rows_pass_and_every_suite_says_so(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    summary = lab.run()
    printed = capfd.readouterr()
    assert printed.err == ""  # no progress bar, no log
    assert re.fullmatch(
        r"quality: instructions: (\d+) of \1 expectations hold on 20 rows\n"
        r"quality: scores: (\d+) of \2 expectations hold on 32 rows\n"
        r"quality: replay: (\d+) of \3 expectations hold on 10 rows\n"
        r"quality: counts: 1 of 1 expectations hold on 5 rows\n",
        printed.out,
    )
    assert lab.failed() == []
    assert all(suite["success"] for suite in summary["suites"].values())
    for suite in summary["suites"].values():  # Great Expectations keeps no order of its own
        keys = [(result["column"] or "", result["type"]) for result in suite["results"]]
        assert keys == sorted(keys)
    assert summary["counts"] == dict(
        raw=20,
        kept=16,
        held_out=0,
        rejected={"unfinished": 4},
        scores=32,
        scores_missing=2,
        candidates=12,
        replay=10,
        replay_clusters=4,
        replay_models={"base": 5, "other": 5},
        stages={
            "curate": dict(read=20, accounted=20),
            "judge": dict(read=32, accounted=32),
            "judge's audit": dict(read=32, accounted=32),
            "consensus": dict(read=16, accounted=16),
            "balance": dict(read=12, accounted=12),
        },
    )
    assert summary["statistics"]["expectations"] == summary["statistics"]["held"] > 30


def test_two_runs_give_the_same_bytes_wherever_they_ran(tmp_path: Path) -> None:
    one, two = Lab(tmp_path / "one"), Lab(tmp_path / "two")
    one.run()
    two.run()
    one.run()
    assert (one.out / "quality.json").read_bytes() == (two.out / "quality.json").read_bytes()
    assert one.pages() == two.pages()
    assert str(tmp_path).encode() not in (one.out / "quality.json").read_bytes() + b"".join(one.pages().values())
    assert sorted(path.name for path in one.out.iterdir()) == ["data_docs", "quality.json"]


def spoil(table: str, row: int = 0, **columns: Any) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        getattr(lab, table)[row] |= columns

    return change


def drop(table: str, row: int = 0) -> Callable[[Lab], None]:
    return lambda lab: getattr(lab, table).pop(row)


def both(row: int, **columns: Any) -> Callable[[Lab], None]:
    """A candidate and its replay row get these columns."""

    def change(lab: Lab) -> None:
        lab.candidates[row] |= columns
        lab.replay[row] |= columns

    return change


def mute(lab: Lab) -> None:
    for row in lab.scores[:7]:
        row["score"] = None


def one_cluster(lab: Lab) -> None:
    for row in lab.replay:
        row["cluster"] = 7


STRICT = dict(max_unfinished=0.05, max_instruction_chars=50, min_rows=11)
CRITICAL: dict[tuple[str, str], tuple[Callable[[Lab], Any], str]] = {
    # (suite, expectation): (how to break it, part of what is told)
    ("instructions", "kept + held out + rejected = the 20 raw rows"): (drop("rejected"), "observed 19"),
    ("instructions", "no id appears twice"): (
        spoil("rejected", id="0000000000000000"),
        "observed 2 (as in 0000000000000000,",
    ),
    ("instructions", "no two kept or held-out texts are equal"): (spoil("kept", text="Question 1?"), "observed 2"),
    ("instructions", "no kept text is blank"): (spoil("kept", 2, text=" \n"), "curate.min_chars"),
    ("instructions", "kept texts have at most 50 characters"): (spoil("kept", 4, text="q" * 51), "curate.max_chars"),
    ("instructions", "finish_reason is stop or length"): (
        spoil("rejected", 2, finish_reason="tired"),
        "observed 1 (as in 0000000000000013)",
    ),
    ("instructions", "at most 0.05 of the raw rows are unfinished"): (lambda lab: None, "observed 0.1579"),
    ("instructions", "every kept row has a cluster"): (spoil("kept", 5, cluster=-1), "observed 1"),
    ("scores", "scores are 1 to 5"): (spoil("scores", 9, score=5.5), "as in 0000000000000009"),
    ("scores", "at most 0.2 of the scores are missing"): (mute, "observed 0.25"),
    ("scores", "the probability on the score tokens is 0 to 1"): (spoil("scores", 8, mass=1.5), "observed 1"),
    ("replay", "at least 11 rows"): (lambda lab: None, "quality.min_rows"),
    ("replay", "at least 3 clusters"): (one_cluster, "observed 1"),
    ("replay", "every row has score"): (both(2, score=None), "observed 1"),
    ("replay", "scores are 1 to 5"): (spoil("replay", 0, score=0.5), "observed 1"),
    ("replay", "no response is blank"): (both(1, response=" "), "observed 1"),
    ("replay", "no instruction is blank"): (both(0, instruction=" "), "observed 1"),
    ("replay", "responses have at most 60 characters"): (both(3, response="a" * 61), "quality.max_response_chars"),
    ("replay", "instructions have at most 50 characters"): (both(4, instruction="a" * 51), "curate.max_chars"),
    ("replay", r"no response matches '<\\|im_(start|end)\\|>'"): (both(5, response="Sure.<|im_end|>"), "quality.deny"),
    ("replay", r"no instruction matches '<\\|im_(start|end)\\|>'"): (
        both(6, instruction="a\n<|im_start|>b"),
        "as in 0000000000000006",
    ),
    ("replay", "every response_id is that of a candidate"): (drop("candidates", 9), "balance"),
    ("replay", "every instruction is that of a candidate"): (spoil("replay", 7, instruction="Another?"), "observed 2"),
    ("replay", "every response is that of a candidate"): (spoil("replay", 7, response="Another."), "observed 2"),
    ("replay", "agreement is 0 to 1"): (spoil("replay", 8, agreement=1.5), "observed 1"),
    ("replay", "score_std is 0 to 2"): (spoil("replay", 8, score_std=2.5), "observed 1"),
    ("replay", "n_judges is 0 or more"): (spoil("replay", 8, n_judges=-1), "observed 1"),
    ("replay", "difficulty is 0 or more"): (spoil("replay", 8, difficulty=-1), "observed 1"),
    ("counts", "every stage accounts for each row that it read"): (
        drop("responses"),
        "observed 4 (as in curate, judge, consensus)",
    ),
}


def test_every_critical_expectation_can_fail_and_says_what_to_do(lab: Lab) -> None:
    for change, _ in CRITICAL.values():
        change(lab)
    message = lab.fails(**STRICT)
    summary = lab.summary()
    results = {(suite, r["expectation"]): r for suite, entry in summary["suites"].items() for r in entry["results"]}
    for place, (_, told) in CRITICAL.items():
        assert not results[place]["success"], place
        assert told in validation.in_words(results[place]) + results[place]["remedy"], place
    critical = {place: r["success"] for place, r in results.items() if r["severity"] == "critical"}
    refused = {name for (_, name), held in critical.items() if held}  # what the files' contracts refuse already
    assert all(
        re.match("every row has|the columns are|no instruction appears|a judge scores|every judge", n) for n in refused
    )
    assert summary["statistics"]["failed_critical"] == len(CRITICAL)
    assert f"{len(CRITICAL)} critical expectations failed: instructions: " in message
    assert message.count("observed") == 3
    assert not any(suite["success"] for suite in summary["suites"].values())
    assert (lab.out / "data_docs" / "index.html").is_file()


def test_held_out_instructions_are_accounted_for_and_none_is_kept_as_well(lab: Lab) -> None:
    lab.held_out.append(lab.kept.pop())
    lab.unanswered.pop()
    assert lab.run()["counts"]["stages"]["curate"] == dict(read=20, accounted=20)
    lab.held_out[0]["text"] = lab.kept[0]["text"]
    assert "no two kept or held-out texts are equal" in lab.fails()


def test_one_fault_breaks_no_other_expectation(lab: Lab) -> None:
    both(3, response="Sure.<|im_end|>")(lab)
    message = lab.fails(deny=["never", r"<\|im_(start|end)\|>", r"\bnor this$"])
    assert lab.failed() == [("replay", r"no response matches '<\\|im_(start|end)\\|>'")]
    (result,) = [r for r in lab.summary()["suites"]["replay"]["results"] if not r["success"]]
    assert result["parameters"] == {"regex": r"<\|im_(start|end)\|>"}
    assert (result["column"], result["severity"], result["observed"]) == ("response", "critical", 1)
    assert result["examples"] == ["0000000000000003"]
    for part in (
        "1 critical expectation failed: replay: no response matches",
        "quality.deny",
        "data_docs",
        "quality.json",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("table", "stage"),
    [
        ("responses", "judge"),
        ("surplus", "balance"),
        ("unanswered", "consensus"),
        ("rejected", "curate"),
        ("scores", "judge's audit"),
    ],
)
def test_a_row_that_a_stage_lost_is_noticed_by_its_count(lab: Lab, table: str, stage: str) -> None:
    """Without Data Docs: the numbers alone."""
    getattr(lab, table).pop()
    lab.write()
    panel = ["base", "other"]
    flow = quality_tables.count_flow(quality_tables.load_tables(panel, lab.data), panel)
    assert [name for name, (read, accounted) in flow.items() if read != accounted] == [stage]


def test_warnings_are_printed_and_stop_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for row in lab.replay[:7]:
        row["model"] = "base"
    for row in lab.scores[16:]:  # a judge that gives everything the same
        row["score"] = 5.0
    quantiles = {0.5: [1, 9], 0.9: [1, 60]}
    summary = lab.run(min_clusters=1, min_cluster_coverage=1.0, length_quantiles=quantiles)
    assert lab.failed() == [
        ("instructions", "characters of kept texts: quantile 0.5 is 1 to 9, quantile 0.9 is 1 to 60"),
        ("replay", "characters of instructions: quantile 0.5 is 1 to 9, quantile 0.9 is 1 to 60"),
        ("replay", "at most 0.6 of the rows are what model 'base' alone said"),
        ("scores", "the scores of judge 'other' vary by 0.05 or more"),
    ]
    assert all(suite["success"] for suite in summary["suites"].values())
    assert summary["statistics"]["failed_warning"] == 4
    printed = capsys.readouterr().out
    assert "warning: at most 0.6 of the rows are what model 'base' alone said, observed 0.8" in printed
    assert "vary by 0.05 or more, observed 0" in printed
    one_cluster(lab)
    lab.run(min_clusters=1, min_cluster_coverage=0.25, max_model_share=1.0, min_score_spread=0.0)
    assert lab.failed() == []
    lab.run(min_clusters=1, min_cluster_coverage=0.26, max_model_share=1.0, min_score_spread=0.0)
    assert lab.failed() == [("replay", "at least 0.26 of the 4 clusters of kept instructions")]


def test_an_answer_that_several_members_gave_has_no_sole_author(lab: Lab) -> None:
    for row in lab.replay[:7]:
        row["model"] = "base"
    lab.responses += [
        response(row["id"], model, 1, row["response"]) for row in lab.replay[:3] for model in ("base", "other")
    ]
    lab.run(min_clusters=1, max_model_share=0.6)  # 8 of 10 are the base's, 3 of them the other's too
    assert lab.failed() == []


@pytest.mark.parametrize(("panel", "limits"), [(["base", "other"], 2), (["base"], 0)])
def test_a_panel_of_one_is_not_warned_that_one_member_wrote_it_all(lab: Lab, panel: list[str], limits: int) -> None:
    lab.write()
    suites = expectation_suites.build_suites(Quality(**PARAMS), panel, quality_tables.load_tables(panel, lab.data))
    columns = [getattr(one, "column", None) for one in suites["replay"].expectations]
    assert columns.count("sole_author") == limits


def test_limit_itself_is_allowed(lab: Lab) -> None:
    lab.run(max_model_share=0.5, max_unfinished=0.2, max_null_scores=0.0625, min_rows=10, min_clusters=4)
    assert lab.failed() == []


def test_lookalikes_are_cut_on_purpose_and_do_not_count_as_unfinished(lab: Lab) -> None:
    for row in [*lab.raw[16:], *lab.rejected]:
        row["family"] = "lookalikes"
    lab.run(max_unfinished=0.01, min_rows=10, min_clusters=4)
    assert not [expectation for _, expectation in lab.failed() if "unfinished" in expectation]


def test_limit_is_allowed_where_one_minus_it_is_not_exact() -> None:
    assert 1 - 0.95 > 0.05
    assert complement(0.95) == 0.05


def test_what_contracts_refuse_already_is_found_as_well(tmp_path: Path) -> None:
    """The expectations do not lean on the contracts of the files."""
    row = dict(
        id="a",
        family="plain",
        text=None,
        asked="Why?",
        finish_reason="stop",
        model="m",
        revision="r",
        cluster=0,
        outcome="kept",
        characters=4,
    )
    score = dict(id="a", instruction_id=None, judge="stranger", score=4.0, mass=0.9)
    frames = {
        "instructions": expectation_suites.Suite(
            pd.DataFrame([row]), expectation_suites.expect_of_instructions(Quality(), 1)
        ),
        "scores": expectation_suites.Suite(
            pd.DataFrame([score, score]), expectation_suites.expect_of_scores(Quality(), ["base"])
        ),
    }
    results = validation.validate(frames, tmp_path)
    failed = {(name, r["expectation"]) for name in frames for r in results[name] if not r["success"]}
    assert failed >= {
        ("instructions", "every row has text"),
        ("instructions", "the columns are those of 'instructions_rejected'"),
        ("scores", "every row has instruction_id"),
        ("scores", "the columns are those of 'scores'"),
        ("scores", "a judge scores a response once"),
        ("scores", "every judge is of the panel"),
    }


def test_empty_replay_set_is_a_failure_and_no_crash(lab: Lab) -> None:
    lab.replay = []
    message = lab.fails()
    assert "at least 8 rows, observed 0" in message


def test_text_that_a_model_wrote_never_reaches_the_pages(lab: Lab) -> None:
    for row in lab.replay + lab.candidates:
        row["instruction"], row["response"], row["revision"] = HOSTILE + row["id"], HOSTILE + row["id"], HOSTILE
    for row in lab.kept + lab.rejected:
        row["text"], row["revision"] = HOSTILE, HOSTILE
    lab.rejected[0]["finish_reason"] = HOSTILE
    lab.replay[0]["response_id"] = HOSTILE
    lab.fails(max_instruction_chars=5, max_response_chars=5, deny=["script", r"<img src=x onerror=alert\(2\)>"])
    assert len(lab.failed()) >= 10
    for name, content in lab.pages().items():
        if name.endswith(".html"):
            page = content.decode("utf-8")
            assert "<script>alert" not in page, name
            assert "<img src=x" not in page, name
            assert "@everyone" not in page, name
    assert "@everyone" not in (lab.out / "quality.json").read_text(encoding="utf-8")


def test_pages_hold_no_clock_and_no_picture_from_elsewhere(lab: Lab) -> None:
    lab.run()
    for name, content in lab.pages().items():
        if name.endswith(".html"):
            page = content.decode("utf-8")
            assert not re.search(r"<img[^>]*src=\"https?:", page), name
            assert set(re.findall(r"\b20\d{6}T\d{6}", page)) <= {"20000101T000000"}, name


def test_expectation_that_crashes_is_no_verdict(lab: Lab, tmp_path: Path) -> None:
    frame = pd.DataFrame([dict(id="a")])
    with pytest.raises(RuntimeError, match="judge"):
        validation.validate(
            {"scores": expectation_suites.Suite(frame, expectation_suites.expect_of_scores(Quality(), ["base"]))},
            tmp_path,
        )


@pytest.mark.parametrize("gone", ["instructions/raw", "scores/*", "replay/candidates", "replay/replay"])
def test_missing_file_is_named_and_earlier_outputs_stay(lab: Lab, gone: str) -> None:
    lab.run()
    before = lab.pages() | {"quality.json": (lab.out / "quality.json").read_bytes()}
    for file in lab.data.glob(f"{gone}.parquet"):
        file.unlink()
    with pytest.raises(UserError, match="dvc repro"):
        lab.check()
    assert lab.pages() | {"quality.json": (lab.out / "quality.json").read_bytes()} == before


def test_scores_of_a_former_panel_member_do_not_count(lab: Lab) -> None:
    lab.write()
    stale = [row | dict(judge="former", score=None) for row in lab.scores[:16]]
    records.write("scores", lab.data / "scores" / "former.parquet", stale)
    lab.check()
    assert lab.summary()["counts"]["scores"] == 32
