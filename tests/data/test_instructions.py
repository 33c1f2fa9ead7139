"""holdfast/data/instructions.py: what an instruction is, for every stage that builds a chat from one."""

from __future__ import annotations

import pytest
from helpers import ROOT, instruction

from holdfast.core import fingerprint
from holdfast.data import instructions


def test_the_messages_of_a_row_are_its_context_and_its_text():
    earlier = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}]
    row = instruction("a", "And then?") | {"context": earlier}
    assert instructions.messages(row) == [*earlier, {"role": "user", "content": "And then?"}]
    assert len(earlier) == 2


def test_instructions_are_equal_only_after_the_same_turns():
    one, other = ([{"role": "system", "content": text}] for text in ("Be brief.", "Be kind."))
    assert instructions.key("Why?", []) == instructions.key(" why? ", [])
    assert len({instructions.key("Why?", context) for context in ([], one, other)}) == 3


def test_a_transcript_names_the_speakers_where_there_are_several():
    user = {"role": "user", "content": "Why?"}
    assert instructions.transcript([user]) == "Why?"
    assert (
        instructions.transcript([{"role": "system", "content": "Be brief."}, user]) == "System: Be brief.\n\nUser: Why?"
    )


@pytest.mark.parametrize("stage", ["respond", "judge", "consensus", "balance", "quality"])
def test_a_changed_filter_reruns_no_stage_behind_curate(stage):
    """Only `reconstruct` and `curate` can reach what makes an instruction unfit."""
    checks = {"holdfast.data.filters", "holdfast.data.row_checks", "holdfast.data.overlap"}
    assert not checks & fingerprint.of_file(ROOT / "stages" / f"{stage}.py").keys()
    assert checks <= fingerprint.of_file(ROOT / "stages" / "curate.py").keys()
