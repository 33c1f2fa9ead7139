"""The report: hostile text stays inert, the Markdown stays short, missing inputs are named, the page works in Chromium."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from browser import CHROMIUM, Browser, Tab
from report_run import ARMS, SUITES, add_self_suite, build, item, render, replay_row

from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.reporting import charts, evidence, figures, markdown_report, markup, plots
from holdfast.verdict import outcomes

HOSTILE = [
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>",
    "</script><script>document.title='owned'</script><!-- </td></table></details>",
    "![x](https://evil.example/x.png) [click](javascript:alert(1)) https://evil.example www.evil.example a@evil.example",
    "@everyone @org/team #123 org/repo#1 GH-1 | pipe | `code` ``` fence\n```\n# heading\n- list\n> quote\n| a | b |\n|---|---|",
    "\u202ereversed\u202c \u2067x\u2069 \u200f\u200e\u061c\x00\x07\x1b[31m\u2028\ufeff\U000e0041",
    "*a* _b_ ~~c~~ $x$ &lt;b&gt; &#64;everyone \\` ``` \"quoted\" 'single' {{ 7*7 }} {% x %}",
    "x" * 1_000_000,
    "\u202e" * 1_000_000,
    "",
]


class Tags(HTMLParser):
    """Every element with its attributes, and the text outside <code>, <script> and <style>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.inside = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag if tag in ("code", "script", "style") else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        self.text += "" if self.inside else data


def hostile(root: Path) -> Path:
    """A run in which everything that a model, a data set or an endpoint could have written is hostile."""
    build(root, n=12)
    for model in ("base", "holdfast", "domain-only"):
        file = root / f"reports/eval/{model}/items.parquet"
        rows = [r for r in records.read("items", file) if r["suite"] != "facts"]
        for number in range(2 * len(HOSTILE)):
            evil, right = HOSTILE[number % len(HOSTILE)], float(model == "base")
            more = {
                "prompt": evil,
                "target": evil,
                "item_id": f"{number}{evil[:300]}",
                "id": records.text_id("evil", number),
            }
            rows.append(item("facts", number, right, "", **more) | {"response": evil})
        records.write("items", file, rows)
    add_self_suite(root, HOSTILE)
    for file in (
        "reports/consensus.json",
        "reports/quality/quality.json",
        "reports/curate.json",
        "reports/drift/drift.json",
    ):
        content = storage.read_json(root / file)
        content |= {
            "strategy": HOSTILE[0],
            "judges": {HOSTILE[1]: {HOSTILE[2]: 1.0}},
            HOSTILE[3]: HOSTILE[4],
            "warnings": HOSTILE,
            "instructions": {HOSTILE[0]: HOSTILE[1]},
        }
        content |= {"rejected": dict.fromkeys(HOSTILE[:6], 1), "evaluation_overlap": dict.fromkeys(HOSTILE[:6], 1)}
        content["suites"] = {
            h: {"results": [{"expectation": h, "column": h, "severity": h, "observed": h, "success": False}]}
            for h in HOSTILE
        }
        storage.write_json(root / file, content)
    for arm in ("holdfast", "domain-only"):
        ledger = storage.read_json(root / f"reports/training/{arm}/ledger.json")
        storage.write_json(
            root / f"reports/training/{arm}/ledger.json",
            ledger | {"preflight": "\n".join(HOSTILE), "objective": HOSTILE[0]},
        )
    gate = storage.read_json(root / "reports/gate.json")
    gate["arms"]["holdfast"]["reasons"] = HOSTILE
    gate["arms"]["holdfast"]["suites"] |= dict.fromkeys(HOSTILE[:6], gate["arms"]["holdfast"]["suites"]["facts"])
    storage.write_json(root / "reports/gate.json", gate)
    replay = [replay_row(n) | {"instruction": h, "response": h, "model": h[:500]} for n, h in enumerate(HOSTILE)]
    records.write("replay", root / "data/replay/replay.parquet", replay)
    return root


def test_hostile_text_is_inert_in_html(tmp_path: Path) -> None:
    _, html = render(hostile(tmp_path), title=HOSTILE[0])
    tags = Tags(html)
    names = {tag for tag, _ in tags.found}
    assert not names & {"img", "iframe", "object", "embed", "base", "form", "video", "audio", "source"}
    assert [attrs.get("type") for tag, attrs in tags.found if tag == "script"] == ["application/json", None]
    assert not [
        name for _, attrs in tags.found for name in attrs if name.startswith("on") or name in ("src", "style", "srcset")
    ]
    for tag, attrs in tags.found:
        if tag in ("a", "link"):
            assert re.match(r"#|data:,$|(drift|quality)/[\w./-]+$", attrs["href"] or ""), attrs
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "url(" not in html
    assert not markup.HIDDEN.search(html), "a character that hides or reorders text got through"
    assert "(1,000,000 characters)" in html
    assert len(html.encode()) < 2_000_000


def test_hostile_text_is_inert_in_markdown(tmp_path: Path) -> None:
    text, _ = render(hostile(tmp_path), title=HOSTILE[3], lost_items=40)
    assert len(text) < 60_000
    assert not markup.HIDDEN.search(text.replace("\u200b", "")), "a character that hides or reorders text got through"
    assert not re.search(r"@\w", text)
    assert "(1,000,000 characters)" in text
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    rendered = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    tags = Tags(rendered)
    allowed = {
        "h2",
        "p",
        "strong",
        "em",
        "code",
        "ul",
        "li",
        "a",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert {tag for tag, _ in tags.found} <= allowed
    for tag, attrs in tags.found:
        assert set(attrs) <= {"href", "open", "style"}, attrs
        assert tag != "a" or re.match(
            r"(index|drift/html/[\w-]+|quality/data_docs/index)\.html$", attrs["href"] or ""
        ), attrs
    assert not re.search(
        r"https?://|www\.\w|GH-\d|@\w|(^|\W)#\d", tags.text
    )  # what GitHub would make a link, mention or reference
    assert rendered.count("<details") == rendered.count("</details>")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1, "a pipe broke a table"
    assert rendered.count("<tr>") == len(re.findall(r"^\|(?!-)", text, re.M))


@pytest.mark.parametrize("evil", [*HOSTILE[:6], "`", "a`", "```", "``a`b``", " ", "\\", "|"])
def test_a_quotation_is_one_code_span_in_lists_and_tables(evil: str) -> None:
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    render = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render
    table = markup.Table([markup.Column("a", "quote"), markup.Column("b")], [[evil, "end"]])
    in_list, in_table = render(f"- asked: {markup.quote(evil)}"), render(markup.markdown_table(table, 5000))
    assert re.fullmatch(r"<ul>\n<li>asked: (<code>[^<]+</code>|<em>\(empty\)</em>)</li>\n</ul>\n", in_list)
    assert re.search(r"<tr>\n<td>(<code>[^<]+</code>|<em>\(empty\)</em>)</td>\n<td>end</td>\n</tr>", in_table)


def test_hidden_characters_are_all_known() -> None:
    kept = {"\n", "\t", "\r", "\u200c", "\u200d"}
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and chr(code) not in kept:
            assert markup.HIDDEN.match(chr(code)), f"U+{code:04X}"
    assert markup.clean("a\u202eb\r\nc") == "a[U+202E]b\nc"


def test_markdown_fits_whatever_was_lost(tmp_path: Path) -> None:
    build(tmp_path, n=420)
    for model in ("base", "holdfast"):
        rows = [item(suite, n, float(model == "base"), "wordy " * 60) for suite in SUITES for n in range(420)]
        records.write("items", tmp_path / f"reports/eval/{model}/items.parquet", rows)
    text, _ = render(tmp_path, lost_items=5000)
    assert 45_000 < len(text) < 60_000
    shown, total = re.search(r"holdfast: (\d+) of ([\d,]+) lost items", text).groups()
    assert total == "5,880"
    assert 20 < int(shown) == text.count("  - after: ") - text.split("domain-only (control):")[-1].count("  - after: ")


def test_markdown_fits_many_arms_and_suites(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    arm = gate["arms"]["domain-only"]
    arm["suites"] = {f"{name}_{n}": s for name, s in arm["suites"].items() for n in range(5)}
    gate["arms"] = {f"arm-{n:02d}": arm | {"reasons": ["it dropped far"] * 50} for n in range(60)} | {
        "holdfast": gate["arms"]["holdfast"]
    }
    storage.write_json(tmp_path / "reports/gate.json", gate)
    for n in range(60):
        shutil.copytree(tmp_path / "reports/eval/domain-only", tmp_path / f"reports/eval/arm-{n:02d}")
    text, html = render(tmp_path)
    assert len(text) < 60_000
    assert "more rows stand in index.html" in text
    assert "more arms stand, suite by suite, in index.html" in text
    assert all(f"arm-{n:02d}" in html for n in range(60))


def test_page_stays_small_whatever_was_written(tmp_path: Path) -> None:
    build(tmp_path, n=120)
    for model in ("base", "holdfast", "domain-only"):
        rows = [
            item(s, n, float(n % 2), "é" * 5000, prompt="é" * 5000 + str(n), target="é" * 5000)
            for s in SUITES
            for n in range(120)
        ]
        records.write("items", tmp_path / f"reports/eval/{model}/items.parquet", rows)
    _, html = render(tmp_path, page_items=100_000)
    assert 1_000_000 < len(html.encode()) < 15_000_000
    assert f"{len(embedded(html)['items']):,} of 3,360 pairs of answers are in this page" in html


def embedded(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="item-data">(.*?)</script>', html, re.S)[1])


def test_page_shows_lost_and_gained_first_and_every_suite(tmp_path: Path) -> None:
    build(tmp_path, n=60)
    _, html = render(tmp_path, page_items=40)
    content = embedded(html)
    assert len(content["items"]) == 40
    assert {content["kinds"][row[3]] for row in content["items"]} <= {"lost", "gained"}
    assert len({row[1] for row in content["items"]}) == len(SUITES)
    _, everything = render(tmp_path, page_items=2000)
    rows = embedded(everything)["items"]
    assert len(rows) == 2 * 60 * len(SUITES)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    for number, arm in enumerate(content["arms"]):
        entry = gate["arms"][arm]["suites"]
        assert sum(row[0] == number and row[3] == 0 for row in rows) == sum(s["lost"] for s in entry.values())
        assert sum(row[0] == number and row[3] == 1 for row in rows) == sum(s["gained"] for s in entry.values())


def test_only_the_same_items_are_paired_in_whatever_order(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    files = {name: tmp_path / f"reports/eval/{name}/items.parquet" for name in ("base", "holdfast")}
    whole = outcomes.Pairs(files["base"], {"holdfast": files["holdfast"]})
    rows = records.read("items", files["holdfast"])
    shown = {(i.suite, i.item_id): i for i in whole.first(10_000)}
    assert whole.count() == len(shown) == len(rows) == 12 * len(SUITES)
    kept = {row["item_id"]: row for row in rows if row["item_id"] != "facts-0003"}
    kept["facts-0005"] |= {"prompt_hash": "another"}
    again = [row | {"id": records.text_id("shuffled", item_id)} for item_id, row in kept.items()]
    records.write("items", files["holdfast"], again)
    pairs = outcomes.Pairs(files["base"], {"holdfast": files["holdfast"]})
    assert pairs.count() == len(rows) - 2
    other = {"facts-0003", "facts-0005"}
    assert {(i.suite, i.item_id): i for i in pairs.first(10_000)} == {
        k: i for k, i in shown.items() if k[1] not in other
    }
    assert pairs.first(10_000, arm="nobody") == []


def test_questions_are_shown_without_the_chat_template(tmp_path: Path) -> None:
    text, html = render(build(tmp_path, n=12))
    assert "im_start" not in json.dumps(embedded(html)["items"])
    assert "  - asked: `Addition: " in text
    assert "without the chat template that surrounds each of them: &#x27;&lt;|im_start|&gt;user\\n" in html


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (render(build(tmp_path / name, n=12)) for name in ("one", "two"))
    for folder in ("cards", "plots"):
        for file in (tmp_path / "one/reports" / folder).rglob("*.*"):
            other = tmp_path / "two" / file.relative_to(tmp_path / "one")
            first, second = (*first, file.read_text(encoding="utf-8")), (*second, other.read_text(encoding="utf-8"))
    assert len(first) == 2 + 2 + 3
    assert first == second
    assert str(tmp_path) not in "".join(first)


def test_costs_are_tokens_and_operations_with_their_shares_and_never_seconds(tmp_path: Path) -> None:
    """What differs from run to run is not in the report, or no two runs would give the same one."""
    build(tmp_path)
    text, html = render(tmp_path)
    assert "| respond, base | 900,000 | 120,000 | – | 2.00 | 16.5\u00a0% |" in text
    assert "| **all** | **3,600,000** | **360,000** | – | **12.10** | **100.0\u00a0%** |" in text.replace("**–**", "–")
    for report in (text, html):
        assert "Seconds" not in report and "GiB" not in report


def test_verdict_comes_first(tmp_path: Path) -> None:
    text, html = render(build(tmp_path, n=240))
    line = text.splitlines()[0]
    assert re.match(
        r"## PASS: holdfast keeps 9\d\.\d\u00a0% of general ability \(bound −\d\.\d points inside margin 3\.0; gains \d\d\.\d points",
        line,
    )
    assert "<h1>holdfast keeps 9" in html
    assert re.search(r'class="badge pass"><span aria-hidden="true">✓</span> Pass', html)
    assert text.index("| holdfast |") < text.index("| domain-only (control) |")
    order = [
        "by suite</summary>",
        "lost items, with both answers",
        "**Cost**: The replay set took 5.9 TFLOP to make. With it, holdfast takes",
        "What every stage took",
        "Data quality",
        "Judges",
        markdown_report.CHANGES,
        "](index.html)",
    ]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)


@pytest.mark.parametrize(
    ("verdict", "reason", "begins"),
    [
        ("fail", "pharmacy gained too little", "## FAIL: holdfast keeps 9"),
        (
            "cannot-compare",
            "facts: prompts differ",
            "## CANNOT COMPARE: holdfast cannot be compared with the base (facts: prompts differ)",
        ),
    ],
)
def test_other_verdicts_say_why(tmp_path: Path, verdict: str, reason: str, begins: str) -> None:
    build(tmp_path, n=240)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    gate["verdict"] = gate["arms"]["holdfast"]["verdict"] = verdict
    gate["arms"]["holdfast"]["reasons"] = [reason]
    if verdict == "cannot-compare":  # then the gate has no numbers
        arm = gate["arms"]["holdfast"]
        arm["general"], arm["domain"] = dict.fromkeys(arm["general"]), None
        arm["suites"]["facts"] |= dict.fromkeys(
            ("before", "after", "before_adjusted", "after_adjusted", "change", "low", "high", "lost", "gained")
        )
    storage.write_json(tmp_path / "reports/gate.json", gate)
    text, html = render(tmp_path)
    line = text.splitlines()[0]
    assert line.startswith(begins)
    assert reason in line
    assert reason in html


def test_what_a_reviewer_must_not_miss_is_said_in_both(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    gate["noise"] = {"items": 720, "changed": 9, "lost": 4, "gained": 5, "change": -0.0014}
    storage.write_json(tmp_path / "reports/gate.json", gate)
    for text in render(tmp_path):
        assert "9 of 720 outcomes differ when the base is asked again, and the general score by 0.1 points." in text
        assert "3 judges count as 1.8 independent ones." in text
        assert "it tells nothing apart, leave it out" in text
        assert "4,000 user turns were reconstructed, 3,800 of them fit to be kept (quota met)." in text
        told = "17.83 judge calls per kept row (30.05 if every judge had scored every response), 2,212 tokens of judges"
        assert told in text


def test_what_the_control_lost_stays_in_the_background(tmp_path: Path) -> None:
    """It fails as expected: its reasons are folded, and two of its lost items are enough."""
    text, html = render(build(tmp_path, n=60))
    judged, control = text.split("<details open>")[0], text.split("<summary>domain-only (control):")
    assert "margin" not in judged.split("*Retention*")[1]
    assert "- **domain-only (control)**: the general score fell by" in control[1]
    assert control[2].startswith(" 2 of ") and control[2].count("  - after: ") == 2
    assert "<summary>domain-only (control): why</summary>" in html
    gate = storage.read_json(tmp_path / "reports/gate.json")
    gate["arms"] = {"domain-only": gate["arms"]["domain-only"]}
    gate["verdict"] = "fail"
    storage.write_json(tmp_path / "reports/gate.json", gate)
    text, _ = render(tmp_path)
    assert "- **domain-only**: the general score fell by" in text.split("<details open>")[0], "alone, it is judged"


def test_suites_stand_in_order_of_damage(tmp_path: Path) -> None:
    text, _ = render(build(tmp_path, n=60))
    rows = re.findall(
        r"^\| (\w+) \|(?: [^|]+ \|){2} ([−+\d.]+) \|.* (general|domain) \|$",
        text.split("<details open>")[1].split("</details>")[0],
        re.M,
    )
    changes = [(role == "domain", float(change.replace("−", "-"))) for _, change, role in rows]
    assert len(rows) == len(SUITES) and changes == sorted(changes)


def test_drift_is_told_by_arm_and_from_stage_to_stage(tmp_path: Path) -> None:
    for text in render(build(tmp_path, n=12)):
        told = "Suites whose scores or answer lengths drifted: holdfast 0 of 14, domain-only (control) 3 of 14."
        assert told in text
        assert "wasserstein, threshold 0.1; difficulty alike, 0.1; clusters: jensenshannon, 0.1" in text
        assert "0.55. ▲: past its threshold." in text
        assert len(re.findall(r"0\.62 ▲", text)) == 4 and "0.99 ▲" in text and "0.51 ▲" not in text


OPTIONAL = [
    "reconstruct.json",
    "consensus.json",
    "quality",
    "drift",
    "curate.json",
    "ingest.json",
    "balance.json",
    "training",
    "../data",
    "../models",
    "eval/base/settings.json",
]


@pytest.mark.parametrize("gone", [*([name] for name in OPTIONAL), OPTIONAL], ids=lambda gone: "+".join(gone)[:20])
def test_missing_optional_inputs_are_named(tmp_path: Path, gone: list[str]) -> None:
    build(tmp_path, n=12)
    for name in gone:
        path = (tmp_path / "reports" / name).resolve()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text, html = render(tmp_path)
    assert text.startswith("## ")
    assert "<h2>Method</h2>" in html
    if set(gone) & {"consensus.json", "quality", "drift", "training"}:
        assert "not available" in text
        assert "not available" in html
    for path in re.findall(r'href="([^"#:]+)"', html) + re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / "reports" / path).is_file(), "a link leads nowhere"


@pytest.mark.parametrize("gone", ["gate.json", "eval/base/items.parquet", "eval/holdfast/items.parquet"])
def test_missing_verdict_or_evaluation_is_the_users_error(tmp_path: Path, gone: str) -> None:
    before = render(build(tmp_path, n=12))
    (tmp_path / "reports" / gone).unlink()
    with pytest.raises(UserError, match=gone.replace(".", r"\.")):
        render(tmp_path)
    assert before == tuple(
        (tmp_path / "reports" / name).read_text(encoding="utf-8") for name in ("report.md", "index.html")
    )


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"schema": 2},
        {"schema": 2, "verdict": "pass", "arms": {}},
        {"schema": 1, "verdict": "pass", "arms": {"a": {}}},
    ],
)
def test_a_file_that_is_no_verdict_is_the_users_error(tmp_path: Path, content: object) -> None:
    build(tmp_path, n=12)
    storage.write_json(tmp_path / "reports/gate.json", content)
    with pytest.raises(UserError, match=r"gate\.json"):
        render(tmp_path)


def test_one_file_is_never_newer_than_the_other(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    (tmp_path / "reports/index.html/in the way").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        render(tmp_path)
    assert not [n for n in ("report.md", "cards", "plots") if (tmp_path / "reports" / n).exists()]
    assert not list((tmp_path / "reports").glob(".*"))


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (markup.points, -0.0123, "−1.2"),
        (markup.points, 0.45, "+45.0"),
        (markup.points, -0.0001, "0.0"),
        (markup.points, 0.0, "0.0"),
        (markup.points, None, "–"),
        (markup.points, float("nan"), "–"),
        (markup.percent, 0.989, "98.9\u00a0%"),
        (markup.count, 1234.0, "1,234"),
        (markup.p_value, 0.0001, "< 0.001"),
        (markup.score, -0.05, "−5.0"),
    ],
)
def test_numbers_are_written_as_people_write_them(
    function: Callable[[float | None], str], value: float | None, shown: str
) -> None:
    assert function(value) == shown


def test_ticks_are_round_and_inside() -> None:
    assert plots.ticks(0, 100, 4) == [0, 25, 50, 75, 100]
    assert plots.ticks(-12.7, 1.7) == [-10, -5, 0]
    assert plots.ticks(3, 3) == [3]


def test_figures_take_missing_numbers_and_extremes() -> None:
    nothing, far = plots.Point("x", None, None), plots.Point("far<b>" * 30, -9.0, 9.0, (-10.0, float("nan")))
    drawn = [
        figures.change_against_margin([nothing, far], None, None),
        figures.change_against_margin([], 0.03, 0.95),
        figures.pareto([nothing, plots.Point("y", 9.0, -9.0)], None),
        figures.before_after({"general": [nothing, far]}, "t"),
        figures.lost_gained({"general": [nothing, far]}, "t", 0),
        charts.histogram([], 1, 5, "t"),
        charts.histogram([0, 0], 1, 5, "t"),
        charts.curves({"a": [(0, 1.0)], "b": []}, "t"),
    ]
    for svg in drawn:
        assert "nan" not in svg
        assert "<b>far" not in svg
        assert "far<b>" not in svg
        assert re.search(r'<svg viewBox="0 0 [\d.]+ [\d.]+"', svg)


LOCK = """
schema: '2.0'
stages:
  mix@holdfast:
    params: {params.yaml: {mix.arms.holdfast: {share: 0.5}, mix.seed: 1}}
    outs: [{path: data/mixes/holdfast.parquet, md5: 0123456789abcdef0123456789abcdef, size: 211405}]
  finetune@holdfast:
    params: {params.yaml: {finetune.arms.holdfast: {objective: kl}, finetune.learning_rate: 0.0005}}
    outs: [{path: models/holdfast, md5: fedcba9876543210fedcba9876543210.dir, size: 3997229}]
  finetune@domain-only:
    outs: [{path: models/domain-only, md5: 00000000000000000000000000000000.dir, size: 3997229}]
"""


def test_every_arm_has_a_model_card_that_the_hub_can_read(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    build(tmp_path, n=60)
    (tmp_path / "dvc.lock").write_text(LOCK)
    render(tmp_path)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    assert {p.stem for p in (tmp_path / "reports/cards").iterdir()} == set(gate["arms"])
    text = (tmp_path / "reports/cards/holdfast.md").read_text(encoding="utf-8")
    content = ModelCard(text).data
    assert content.library_name == "transformers"
    assert content.base_model is None, "a local folder is no model of the Hub"
    found = {result.dataset_name: result.metric_value for result in content.eval_results}
    assert found == {name: suite["after"] for name, suite in gate["arms"]["holdfast"]["suites"].items()}
    assert "# holdfast" in text
    assert "**✓ Pass**: holdfast keeps 9" in text
    assert "| finetune.learning_rate | 0.0005 |" in text
    assert "| weights and training log | models/holdfast | fedcba9876543210fedcba9876543210.dir | 3,997,229 |" in text
    assert "00000000" not in text, "another arm's weights"
    control = (tmp_path / "reports/cards/domain-only.md").read_text(encoding="utf-8")
    assert "**✕ Fail**" in control
    assert "It is the control" in control
    assert "on the domain data alone, without replay" in control


def test_card_of_a_model_from_the_hub_names_it(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    build(tmp_path, n=12)
    manifest = tmp_path / "models/manifest/base.json"
    source = {
        "source": "Qwen/Qwen2.5-0.5B-Instruct",
        "hub": True,
        "revision": "7ae557604adf67be50417f59c2c2f167def9a775",
    }
    storage.write_json(manifest, storage.read_json(manifest) | source)
    render(tmp_path)
    text = (tmp_path / "reports/cards/holdfast.md").read_text(encoding="utf-8")
    assert ModelCard(text).data.base_model == "Qwen/Qwen2.5-0.5B-Instruct"
    assert "revision 7ae557604adf" in text


def test_hostile_text_is_inert_in_model_cards(tmp_path: Path) -> None:
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    render(hostile(tmp_path))
    for file in (tmp_path / "reports/cards").iterdir():
        text = file.read_text(encoding="utf-8")
        _, front, body = text.split("---\n", 2)
        assert yaml.safe_load(front)["library_name"] == "transformers"
        rendered = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
        allowed = {"h1", "h2", "p", "strong", "ul", "li", "a", "table", "thead", "tbody", "tr", "th", "td"}
        tags = Tags(rendered)
        assert {tag for tag, _ in tags.found} <= allowed
        assert {attrs["href"] for tag, attrs in tags.found if tag == "a"} <= {"https://arxiv.org/abs/2506.09428"}
        assert not re.search(r"@\w", body)


def test_tables_behind_dvc_plots(tmp_path: Path) -> None:
    render(build(tmp_path, n=12))
    gate = storage.read_json(tmp_path / "reports/gate.json")
    with (tmp_path / "reports/plots/suites.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["suite"]: float(row["change"]) for row in csv.DictReader(file)}
    assert set(rows) == {f"{arm}: {suite}" for arm in ARMS for suite in SUITES}
    assert rows["holdfast: facts"] == gate["arms"]["holdfast"]["suites"]["facts"]["change"]
    curve = (tmp_path / "reports/plots/loss/holdfast.csv").read_text(encoding="utf-8").splitlines()
    assert curve[0] == "step,loss"
    assert len(curve) == 49


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


def choose(tab: Tab, field: str, value: str) -> None:
    """What a reader does: sets one field of the filter."""
    tab.run(
        f"(() => {{ const f = document.getElementById('f-{field}'); f.value = {json.dumps(value)};"
        " f.dispatchEvent(new Event('input')); })()"
    )


ROWS = "document.querySelectorAll('#item-table tbody tr').length"
COUNT = "document.getElementById('f-count').textContent"


def test_page_works_in_chromium(browser: Browser, tmp_path: Path) -> None:
    render(build(tmp_path, n=30))
    page = tmp_path / "reports/index.html"
    tab = browser.open(page)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    lost = gate["arms"]["domain-only"]["suites"]["facts"]["lost"]
    assert (tab.run(ROWS), tab.run(COUNT)) == (25, "25 of 840 shown")
    tab.run("document.getElementById('f-more').click()")
    assert (tab.run(ROWS), tab.run(COUNT)) == (50, "50 of 840 shown")
    for field, value in (("arm", "domain-only"), ("suite", "facts"), ("outcome", "lost")):
        choose(tab, field, value)
    assert tab.run(ROWS) == min(lost, 25) > 0
    assert tab.run("[...new Set([...document.querySelectorAll('.where')].map(e => e.textContent))]") == [
        "facts · domain-only"
    ]
    words = tab.run("document.querySelector('#item-table .asked q').textContent")
    choose(tab, "text", words.upper())
    assert tab.run(COUNT) == "1 of 1 shown"
    choose(tab, "text", "no such text")
    assert (tab.run(ROWS), tab.run(COUNT)) == (0, "No item fits.")
    tab.run('document.querySelector(\'a[href*="suite=facts&outcome=lost"][href*="arm=domain-only"]\').click()')
    tab.until(f"{COUNT} !== 'No item fits.'")
    assert tab.run(ROWS) == min(lost, 25), "the count in a table leads to its items"

    table = "document.querySelector('#suites .scroll table')"
    scores = f"[...{table}.tBodies[0].rows].map(row => parseFloat(row.cells[4].textContent))"
    title, before = f"{table}.tHead.rows[0].cells[4]", tab.run(scores)
    for order, state in ((sorted(before, reverse=True), "descending"), (sorted(before), "ascending"), (before, None)):
        tab.run(f"{title}.firstChild.click()")
        assert (tab.run(scores), tab.run(f"{title}.ariaSort")) == (order, state), "a title sorts its column"

    tab.resize(390, 844, mobile=True)
    assert tab.run("document.documentElement.scrollWidth") <= 390, "a phone scrolls down, not sideways"
    light = tab.run("getComputedStyle(document.documentElement).backgroundColor")
    tab.media(scheme="dark")
    assert tab.run("getComputedStyle(document.documentElement).backgroundColor") != light
    tab.resize(794, 1123)  # A4 at 96 dots an inch
    tab.media("print", scheme="dark")
    assert tab.run("document.documentElement.scrollWidth") <= 794, "paper does not scroll"
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.run("getComputedStyle(document.body).color") == "rgb(30, 29, 27)", "paper is never dark"

    assert tab.requests() == [page.resolve().as_uri()]
    assert tab.complaints() == []


def test_hostile_text_does_nothing_in_chromium(browser: Browser, tmp_path: Path) -> None:
    render(hostile(tmp_path), title="calm")
    page = tmp_path / "reports/index.html"
    tab = browser.open(page, "#items?suite=facts")
    assert tab.run("document.title") == "Pass: calm"
    assert tab.run("document.querySelectorAll('img, iframe, object').length") == 0
    shown = tab.run("[...document.querySelectorAll('#item-table q')].map(e => e.textContent)")
    assert HOSTILE[0] in shown, "as text"
    assert tab.requests() == [page.resolve().as_uri()]
    assert tab.complaints() == []


def test_suites_in_which_no_item_changed_are_one_line(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    suites = gate["arms"]["holdfast"]["suites"]
    for name in ("facts", "sorting"):
        suites[name] |= {"lost": 0, "gained": 0, "change": 0.0, "verdict": "pass"}
    storage.write_json(tmp_path / "reports/gate.json", gate)
    shown = render(tmp_path)[0].split("<details open>")[1].split("</details>")[0]
    assert "No item changed in " in shown and "facts" in shown.split("No item changed in ")[1]
    assert "| facts |" not in shown and "| pharmacy_doses |" in shown


def test_a_pass_without_a_domain_says_so_wherever_it_is_read(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    gate |= {"verdict": "pass", "domain_measured": False}
    gate["arms"]["holdfast"] |= {"verdict": "pass", "reasons": [], "domain": None}
    storage.write_json(tmp_path / "reports/gate.json", gate)
    text, html = render(tmp_path)
    assert text.startswith("## PASS (domain not measured): holdfast keeps ")
    assert "</span> Pass (domain not measured)</span>" in html
    assert "Pass (domain not measured)" in (tmp_path / "reports/cards/holdfast.md").read_text(encoding="utf-8")


def test_a_fail_says_first_how_much_was_lost(tmp_path: Path) -> None:
    build(tmp_path, n=12)
    gate = storage.read_json(tmp_path / "reports/gate.json")
    gate |= {"arms": {"domain-only": gate["arms"]["domain-only"]}, "verdict": "fail"}
    storage.write_json(tmp_path / "reports/gate.json", gate)
    text, _ = render(tmp_path)
    said = r"## FAIL: domain-only lost \d+\.\d points \(limit 3\.0\); \d+ of 12 suites past their margin "
    assert re.match(said, text), text[:200]


def test_labels_beside_curves_keep_their_distance_and_leave_the_axis_free() -> None:
    assert charts.place_labels({"a": 20.0, "b": 100.0}, 14, 194) == {"a": 20.0, "b": 100.0}
    low = charts.place_labels({"a": 192.0, "b": 193.0, "c": 190.0}, 14, 194)
    assert low == {"c": 166.0, "a": 180.0, "b": 194.0}, "pushed up where the numbers of the axis are"


def test_each_curve_of_an_arm_is_plotted_once_and_has_a_name_in_words() -> None:
    loss, kl = [(0.0, 2.0), (1.0, 1.0)], [(0.0, 0.1), (1.0, 0.2)]
    curves = {
        "train/kl": {"holdfast": kl},
        "train/domain_loss": {"domain-only": loss, "holdfast": kl[:1]},
        "train/loss": {"domain-only": loss, "holdfast": loss},
    }
    chosen = evidence.choose_curves(curves)
    assert [metric for metric, _ in chosen] == ["train/loss", "train/domain_loss", "train/kl"]
    assert list(chosen[1][1]) == ["holdfast"], "domain-only trains on the domain alone: its two losses are one"
    assert not evidence.choose_curves({"a": {"one": loss}, "b": {"one": list(loss)}})[1:]
    assert evidence.CURVES["train/kl"] == "KL to the base on replay rows"
