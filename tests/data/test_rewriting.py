"""On-policy targets: which words agree with a gold answer, and that the base's own replace it only where they do."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import run_stage, set_params

from holdfast.core import manifest, records, storage
from holdfast.core.errors import UserError
from holdfast.data import prompt_text, rewriting
from holdfast.data.gold_agreement import agreement
from holdfast.engines import local, registry
from holdfast.engines.interface import Completion, Sampling
from holdfast.params.mix import Rewrite

PROMPT = "Say it in your words.\nrequest: {instruction}\nanswer: {answer}\n"
REASONED = "She buys 3 and 4, so\n#### 7"


@pytest.mark.parametrize(
    ("text", "gold", "agrees"),
    [
        ("paris.", "Paris", 1),
        ("The capital of France is Paris.", "Paris", 1),
        ("It is not Paris.", "Paris", 0),
        ("Paris or London", "London or Paris", 0),
        ("Parisian", "Paris", 0),
        ("1,000", "1000", 1),
        ("about 1000 or 2000", "1000", 0),
        ("I do not know.", "I do not know", 1),
        ("3 + 4 = 7, so the answer is 7.", REASONED, 1),
        ("3 + 4 = 8, so the answer is 8.", REASONED, 0),
        ("", "Paris", 0),
    ],
)
def test_a_short_or_final_answer_agrees_or_does_not(text, gold, agrees):
    assert agreement(text, gold) == agrees


def test_a_long_answer_agrees_by_the_words_it_shares_and_only_with_all_numbers():
    gold = "Take 2 tablets with a glass of water after the evening meal."
    assert agreement(gold.lower(), gold) == 1
    half = "Take 2 tablets with a glass of milk."  # 7 of its 8 words, 7 of the gold's 12
    assert agreement(half, gold) == pytest.approx(2 * 7 / (8 + 12))
    assert agreement(gold.replace("2", "3"), gold) == 0
    assert agreement("", gold) == 0


@pytest.fixture
def given(base: Path, project: Path):
    """Domain rows whose gold answers agree with what the base says (0), say something else (1), and are its words (2)."""
    (project / "prompt.txt").write_text(PROMPT)
    params = Rewrite(prompt="prompt.txt", k=1, temperature=0.0, max_tokens=200)
    entry = manifest.load(base)
    engine, rows = registry.load_engine(entry, params.batch), []
    sampling = Sampling(0.0, 1.0, 200)
    for n in range(200):  # greedy answers of a random model: those that end, and are short
        asked = [{"role": "user", "content": f"What is {n}?"}]
        (done,) = engine.answer([asked], [0], sampling)
        said = done.text.strip()
        if done.finish_reason == "stop" and said.upper() != said and agreement(said, said.upper()) == 1:
            gold = (said.upper(), "Something else entirely.", said)[len(rows)]
            turns = [*asked, {"role": "assistant", "content": gold}]
            rows.append(dict(id=f"d{len(rows)}", messages=turns, group="", source=f"t:{len(rows)}", said=said))
        if len(rows) == 3:
            break
    return params, entry, rows


def answers(rows: list[dict]) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows]


def test_the_base_s_own_words_replace_a_gold_answer_with_which_they_agree_and_no_other(given):
    params, base, rows = given
    found, counts = rewriting.rewrite_answers(rows, base, params)
    assert answers(found) == [rows[0]["said"], "Something else entirely.", rows[2]["said"]]
    assert [row["messages"][0] for row in found] == [row["messages"][0] for row in rows]
    assert (counts["answers"], counts["rewritten"], counts["by_way"]) == (3, 1, {"alone": 1, "shown": 0})
    assert counts["agreed"] >= 2
    engine = local.Engine(base, 8)
    size = [len(engine.tokenizer(text)["input_ids"]) + 1 for text in answers(rows) + answers(found)]
    each = engine.likelihood([row["messages"][:1] for row in rows * 2], answers(rows) + answers(found))
    for part, name in ((slice(0, 3), "gold"), (slice(3, 6), "taken")):
        by_hand = sum(a * b for a, b in zip(each[part], size[part], strict=True)) / sum(size[part])
        assert counts["base_logprob"][name] == pytest.approx(by_hand, rel=1e-4)
    assert counts["base_logprob"]["taken"] > counts["base_logprob"]["gold"]


def test_what_was_rewritten_once_is_not_asked_again(given, monkeypatch):
    params, base, rows = given
    first = rewriting.rewrite_answers(rows, base, params)
    monkeypatch.setattr(registry, "load_engine", None)
    assert rewriting.rewrite_answers(rows, base, params) == first


def test_a_row_without_room_in_the_context_keeps_its_gold_answer(given):
    params, base, rows = given
    found, counts = rewriting.rewrite_answers(rows, base, params.model_copy(update={"max_tokens": 510}))
    assert answers(found) == answers(rows)
    assert (counts["agreed"], counts["written_tokens"]) == (0, 0)


def test_a_mixture_says_how_many_answers_are_the_base_s_own(given, project):
    params, _, rows = given
    rows = [{key: row[key] for key in ("id", "messages", "group", "source")} for row in rows]
    records.write("domain", project / "data/domain/train.parquet", rows)
    arms = {"own": {"share": 0.0, "targets": "rewritten"}, "gold": {"share": 0.0}}
    set_params(project, mix={"arms": arms, "rewrite": params.model_dump()})
    taken = {}
    for arm in arms:
        run_stage("mix", arm)
        mixed = records.read("mix", project / f"data/mixes/{arm}.parquet")
        taken[arm] = {row["source_id"]: answers([row])[0] for row in mixed}
    assert {id for id in taken["own"] if taken["own"][id] != taken["gold"][id]} == {"d0"}
    assert storage.read_json(project / "reports/mix/own.json")["rewritten"]["rewritten"] == 1
    assert storage.read_json(project / "reports/mix/gold.json")["rewritten"] is None


class Echo:
    """A base that only knows what it is shown, and finds longer texts likelier."""

    def answer(self, chats, seeds, sampling) -> list[Completion]:
        shown = [chat[-1]["content"].partition("answer: ")[2] for chat in chats]
        return [Completion(f"The answer is {text}." if text else "No idea.", "stop", 4) for text in shown]

    def likelihood(self, chats, answers, thinking=None) -> list[float]:
        return [-1 / len(text) for text in answers]

    def escape_special_tokens(self, text: str) -> str:
        return text


def test_what_the_base_says_when_it_is_shown_the_gold_answer_is_taken_too(given, monkeypatch):
    params, base, rows = given
    monkeypatch.setattr(registry, "load_engine", lambda entry, batch: Echo())
    found, counts = rewriting.rewrite_answers(rows, base, params)
    assert answers(found)[1] == "The answer is Something else entirely.."
    assert counts["by_way"]["shown"] > counts["by_way"]["alone"] == 0


@pytest.mark.parametrize(("text", "said"), [(None, "no such prompt"), ("only {answer}", "{instruction} exactly once")])
def test_a_prompt_that_cannot_be_filled_is_refused(given, project, text, said):
    params, base, rows = given
    (project / "prompt.txt").unlink()
    if text:
        (project / "prompt.txt").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        rewriting.rewrite_answers(rows, base, params)
    assert len(str(caught.value).splitlines()) == 2


def test_texts_that_spell_a_field_stay_as_they_are():
    assert (
        prompt_text.fill_prompt("Q: {instruction} A: {answer}", instruction="{answer}?", answer="{instruction}")
        == "Q: {answer}? A: {instruction}"
    )
