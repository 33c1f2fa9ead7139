"""params.yaml: the repository's own loads; every mistake gives one to three lines with file, key and remedy, exit code 3."""

from __future__ import annotations

import re

import pytest
from helpers import ROOT, holdfast, set_params

from holdfast.core.errors import UserError
from holdfast.params.base import SECTIONS
from holdfast.params.consensus import SelectionRule
from holdfast.params.finetune import Finetune
from holdfast.params.mix import Mix
from holdfast.params.models import Models, load_panel
from holdfast.params.whole import Params


def test_the_repository_s_own_params_load():
    loaded = Params.load(ROOT / "params.yaml")
    assert loaded.base in loaded.panel
    sections = {
        name: field.annotation for name, field in Params.model_fields.items() if name not in Models.model_fields
    }
    assert set(sections) == set(SECTIONS)
    for name, section in sections.items():
        assert section.section == name
        assert section.load(ROOT / "params.yaml") == getattr(loaded, name)


MISTAKES = {
    "unknown top-level key": (dict(currate={}), ["'currate'", "did you mean 'curate'"]),
    "unknown key of a section": (dict(consensus__min_scor=3), ["'consensus.min_scor'", "did you mean 'min_score'"]),
    "unknown nested key": (
        dict(mix__arms__holdfast__shares=0.1),
        ["'mix.arms.holdfast.shares'", "did you mean 'share'"],
    ),
    "unknown key of a suite": (
        dict(evaluate__suites__facts__rolle="general"),
        ["'evaluate.suites.facts.rolle'", "did you mean 'role'"],
    ),
    "unknown key far from any": (
        dict(balance__zzz=1),
        ["'balance.zzz'", "known: difficulty, difficulty_bins, rows, seed, temperature"],
    ),
    "text for a number": (dict(balance__rows="many"), ["'balance.rows'", "'many'"]),
    "number in quotes": (dict(respond__k="3"), ["'respond.k'", "'3'"]),
    "truth value for a number": (
        dict(reconstruct__samples=True),
        ["'reconstruct.samples'", "'True' is neither auto nor a number"],
    ),
    "number for a truth value": (dict(finetune__packing=1), ["'finetune.packing'", "'1'"]),
    "fraction for a count": (dict(respond__k=2.5), ["'respond.k'", "'2.5'"]),
    "list for a mapping": (dict(gate=["margin"]), ["'gate'"]),
    "no such choice": (dict(consensus__strategy="best"), ["'consensus.strategy'", "'best'", "mean_score"]),
    "share above 1": (dict(mix__arms__holdfast__share=1.5), ["'mix.arms.holdfast.share'", "'1.5'"]),
    "points for a fraction": (dict(gate__margin=3), ["'gate.margin'", "fractions: 3 points are 0.03"]),
    "no per cent": (dict(gate__suite_margin="5"), ["'gate.suite_margin'", "'5' is no per cent"]),
    "share below 0": (dict(mix__arms__holdfast__share=-0.1), ["'mix.arms.holdfast.share'", "'-0.1'"]),
    "share that is a word": (
        dict(mix__arms__holdfast__share="some"),
        ["'mix.arms.holdfast.share'", "neither auto nor a number"],
    ),
    "pilot with one share": (dict(pilot__shares=[0.5]), ["'pilot.shares'", "at least 2 items"]),
    "missing section": (dict(ingest=...), ["'ingest'"]),
    "missing key": (dict(balance__rows=...), ["missing parameter 'balance.rows'"]),
    "panel member twice": (dict(panel=["base", "abacus", "abacus"]), ["panel member 'abacus' is named twice"]),
    "arm twice": (dict(arms=["holdfast", "holdfast"]), ["arm 'holdfast' is named twice"]),
    "arm without an entry in mix": (dict(mix__arms__holdfast=...), ["arm 'holdfast'", "mix.arms"]),
    "arm without an entry in finetune": (dict(finetune__arms__holdfast=...), ["arm 'holdfast'", "finetune.arms"]),
    "KL arm without replay": (dict(mix__arms__holdfast__share=0), ["'holdfast'", "mix.arms.holdfast.share above 0"]),
    "base behind a server alone": (
        dict(models__base={"endpoint": "http://localhost:1/v1", "model": "m"}),
        ["base 'base' needs 'path' or 'hub'", "a server cannot lend its weights"],
    ),
    "base not in panel": (dict(panel=["abacus"]), ["base 'base' is not in panel"]),
    "panel member without a model": (dict(models__lexicon=...), ["'lexicon' has no entry in models"]),
    "arm named like a model": (dict(arms=["domain-only", "abacus"]), ["arm 'abacus'"]),
    "arm that leaves its folder": (dict(arms=["../x"]), ["'arms.0'", "'../x'"]),
    "control that is no arm": (dict(gate__control="plain"), ["gate.control 'plain'"]),
    "model from nowhere": (dict(models__base={}), ["'models.base'", "'path'", "'hub'"]),
    "hub model without a revision": (dict(models__base={"hub": "a/b"}), ["'models.base'", "40-digit commit hash"]),
    "pattern that does not compile": (dict(quality__deny=["("]), ["'quality.deny'", "regular expression"]),
    "micro-batch that does not divide": (
        dict(finetune__batch_size=64, finetune__micro_batch=7),
        ["micro_batch 7 does not divide batch_size 64"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_file_key_and_remedy(project, mistake):
    changes, names = MISTAKES[mistake]
    set_params(project, **changes)
    with pytest.raises(UserError) as caught:
        Params.load()
    text = str(caught.value)
    assert all(name in text for name in ["params.yaml", *names]), text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    "mistake", ["unknown key of a section", "text for a number", "panel member twice", "arm twice", "missing section"]
)
def test_the_command_stops_with_exit_code_3_and_no_traceback(project, mistake):
    changes, names = MISTAKES[mistake]
    set_params(project, **changes)
    said = holdfast(project, "validate")
    assert all(name in said for name in ["params.yaml", *names]), said


def test_a_stage_says_which_section_is_missing(project):
    set_params(project, balance=...)
    assert "missing section 'balance'" in holdfast(project, "run", "balance")


def test_invalid_yaml_names_the_line(project):
    (project / "params.yaml").write_text("base: base\npanel: [base\narms: [a]\n", encoding="utf-8")
    assert re.search(r"params\.yaml, line 3: not valid YAML", holdfast(project, "validate"))


def test_a_missing_file_says_where_to_run(tmp_path):
    assert "params.yaml: no such file" in holdfast(tmp_path, "validate")


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text", b"\xff\xfe\x00", "a: \x00", "? [a]\n: b\n"])
def test_a_file_that_is_no_mapping_is_refused(project, content):
    raw = content if isinstance(content, bytes) else content.encode()
    (project / "params.yaml").write_bytes(raw)
    with pytest.raises(UserError) as caught:
        Params.load()
    assert len(str(caught.value).splitlines()) <= 3


def test_a_key_that_stands_twice_is_refused(project):
    """YAML's own rule would be that the last one silently wins."""
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(
        text.replace("    holdfast: {share:", "    domain-only: {share:", 1), encoding="utf-8"
    )
    with pytest.raises(UserError, match="'domain-only' appears twice"):
        Mix.load()


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001", "+1e-3"])
def test_a_number_in_any_notation_is_that_number(project, number):
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(
        re.sub(r"(?m)^  learning_rate: .*$", f"  learning_rate: {number}", text), encoding="utf-8"
    )
    assert Finetune.load().learning_rate == 0.001


def test_a_panel_must_be_a_list_of_names(project):
    for panel in ("base", [], [1], None):
        set_params(project, panel=panel)
        with pytest.raises(UserError, match="list of names"):
            load_panel()


def test_a_stage_s_section_is_all_that_a_stage_reads(project):
    """A mistake elsewhere does not stop a stage that is not handed it."""
    set_params(project, balance__rows="many")
    assert Mix.load().max_repeats == 4


def test_leaves_of_a_section_are_read_without_the_others(project):
    """A stage that is handed two of a section's parameters does not see, and does not trip over, a third."""
    set_params(project, consensus__min_score="high", consensus__strategy="mean_score")
    assert SelectionRule.load() == SelectionRule(strategy="mean_score", min_judges=1)
    set_params(project, consensus__strategy="vote")
    with pytest.raises(UserError, match="consensus.strategy"):
        SelectionRule.load()
