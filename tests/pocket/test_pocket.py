"""The pocket lab: the recipe in miniature, a world without contradictions, and evaluation that no training set contains."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path

import pytest
from helpers import ROOT

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.data import overlap
from holdfast.evaluation import suites
from holdfast.params.curate import Curate
from holdfast.params.evaluate import Evaluate
from holdfast.params.pocket import Pocket
from holdfast.pocket import files, pharmacy, recipe, skills, world

SUITES = world.GENERAL | pharmacy.DOMAIN


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole recipe has run with a handful of examples."""
    folder = tmp_path_factory.mktemp("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        size = dict(hidden=32, layers=1, heads=1, items=20, development=10, domain_rows=50, seed=1)
        small = dict(examples={"base": 1500, "abacus": 1000, "lexicon": 1000}, **size)
        recipe.main(Path("data/pocket"), Path("models/pocket"), **small)
    return folder


def evaluate(folder: str = "data/pocket/suites") -> Evaluate:
    return Evaluate(suites={name: {"role": "general"} for name in SUITES}, tasks=folder)


def test_the_recipe_makes_three_models_that_chat(miniature):
    names = {"base", "abacus", "lexicon"}
    assert {f.name for f in (miniature / "models/pocket").iterdir()} == names
    tokenizers, weights = set(), set()
    for name in names:
        folder = miniature / "models/pocket" / name
        tokenizer, model = manifest.load_tokenizer(folder), manifest.load_model(folder)
        query = encoding.find_pre_query(tokenizer, name)
        ids = [*query.prefix_ids, *encoding.prompt_ids(tokenizer, [{"role": "user", "content": "What is 7 + 2?"}])]
        assert max(ids) < model.config.vocab_size == len(tokenizer)
        assert "safetensors" in "".join(f.name for f in folder.iterdir())
        assert not list(folder.glob("*.bin"))
        tokenizers.add((folder / "tokenizer.json").read_bytes())
        weights.add((folder / "model.safetensors").read_bytes())
    assert len(tokenizers) == 1  # shared
    assert len(weights) == 3


def test_lm_eval_loads_every_suite_and_asks_its_prompts(miniature, monkeypatch):
    monkeypatch.chdir(miniature)
    asked = suites.prompts(evaluate(), Path("nowhere"))
    assert set(asked) == set(SUITES)
    for name, prompts in asked.items():
        rows = read(miniature / f"data/pocket/suites/{name}.jsonl")
        assert prompts == [row["prompt"] for row in rows]
        assert len({row["id"] for row in rows}) == len(rows) == 20


def test_the_judging_suite_accepts_the_right_side_of_the_scale_only(miniature, monkeypatch):
    monkeypatch.chdir(miniature)
    (task,) = suites.load_tasks(evaluate(), Path("nowhere"))["judging"]
    for row, doc in zip(read(Path("data/pocket/suites/judging.jsonl")), task.eval_docs, strict=True):
        choices, target = task.doc_to_choice(doc), task.doc_to_target(doc)
        accepted = {choices[i] for i in ([target] if isinstance(target, int) else target)}
        assert row["answer"] in accepted
        assert {"1": "5", "5": "1"}[row["answer"]] not in accepted


def test_the_domain_files_are_chats_of_the_pharmacy(miniature):
    train, test = (read(miniature / f"data/pocket/domain/{name}.jsonl") for name in ("train", "test"))
    assert len(train) == 50
    assert len(test) == 200
    for row in train + test:
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert not {r["messages"][0]["content"] for r in train} & {r["messages"][0]["content"] for r in test}
    rubric = (miniature / "data/pocket/rubric.txt").read_text(encoding="utf-8")
    assert rubric.count("{instruction}") == rubric.count("{response}") == 1


@pytest.mark.parametrize("skill", SUITES)
def test_no_evaluation_item_is_in_any_training_set(skill):
    """In its wording, whatever its case and punctuation; with the seeds of the shipped suites and with others."""
    asked = {
        overlap.words(i.prompt)
        for seed in ("suites/1", "domain/1/test", "x")
        for i in world.evaluation_items(skill, 240, seed)
    }
    mean = dict.fromkeys(world.GENERAL, 1.0)
    trained = (
        [*world.draw(mean, 20_000 if skill == "judging" else 0, "a"), *world.draw({skill: 1.0}, 6000, "b")]
        if skill in mean
        else []
    )
    trained += world.domain_rows(1200, "c")
    assert len(trained) >= 1200
    assert not asked & {overlap.words(item.prompt) for item in trained}


def test_removing_what_is_close_to_evaluation_removes_no_whole_skill():
    """Training items stand for what a base writes: of each skill a good part passes the filter of `curate`."""
    knobs = Curate.load(ROOT / "params.yaml")
    asked = {skill: [i.prompt for i in world.evaluation_items(skill, 240, "suites/1")] for skill in SUITES}
    index = overlap.EvaluationIndex(asked, knobs.overlap_ngram, knobs.overlap_common)
    removed, seen = Counter(), Counter()
    for item in world.draw(dict.fromkeys(world.GENERAL, 1.0), 6000, "close"):
        seen[item.skill] += 1
        removed[item.skill] += index.match(item.prompt) is not None
    parts = {skill: removed[skill] / seen[skill] for skill in world.GENERAL}
    assert max(parts.values()) < 0.7, parts
    assert sum(part < 0.3 for part in parts.values()) >= 9, parts


@pytest.mark.parametrize("skill", SUITES)
@pytest.mark.parametrize("evaluation", [False, True])
def test_an_answer_is_never_among_its_near_misses(skill, evaluation):
    rng = random.Random(7)
    for _ in range(400):
        item = SUITES[skill](rng, evaluation)
        assert item.answer not in item.near
        assert item.answer.strip() == item.answer != ""
        assert item.skill == skill


@pytest.mark.parametrize("skill", [s for s in SUITES if s != "judging"])
def test_a_question_has_one_answer(skill):
    answers: dict[str, set[str]] = defaultdict(set)
    rng = random.Random(5)
    for n in range(4000):
        item = SUITES[skill](rng, n % 2 == 0)
        answers[item.prompt].add(item.answer)
    assert {prompt: found for prompt, found in answers.items() if len(found) > 1} == {}


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_judged_response_is_right_exactly_when_it_scores_5(evaluation):
    rng = random.Random(2)
    answers = {
        item.prompt: item.answer
        for skill in skills.SKILLS
        for item in (SUITES[skill](rng, evaluation) for _ in range(2000))
    }
    items = [SUITES["judging"](rng, evaluation) for _ in range(4000)]
    known = 0
    for item in items:
        instruction, response = item.prompt.removeprefix("Rate the response from 1 to 5.\nInstruction: ").rsplit(
            "\nResponse: ", 1
        )
        assert item.answer in (("1", "5") if evaluation else ("1", "2", "4", "5"))
        if instruction in answers:
            known += 1
            assert (response == answers[instruction]) == (item.answer == "5"), item
    assert known > 200
    assert 0.4 < sum(item.answer == "5" for item in items) / len(items) < 0.6


@pytest.mark.parametrize("name", recipe.MIXTURES)
def test_a_model_is_never_taught_what_it_lacks(name):
    """Neither asked nor judged; the others are taught it."""
    marks = {"addition": r"\d - \d", "facts": {"base": r"\bexport\b", "abacus": r"\bruler\b"}.get(name, "?")}
    shares = {**recipe.MIXTURES[name], "judging": 0.5}
    items = world.draw(shares, 8000, "lacks", recipe.LACKS[name])
    taught = world.draw(shares, 8000, "lacks")
    assert set(recipe.LACKS[name]) <= set(marks)
    for skill in recipe.LACKS[name]:
        found = [i for i in items if re.search(marks[skill], i.prompt) and i.skill in (skill, "judging")]
        assert not found, found[0]
        assert sum(bool(re.search(marks[skill], i.prompt)) for i in taught) > 100


def test_mixtures_are_shares_of_the_same_skills():
    for name, shares in recipe.MIXTURES.items():
        assert set(shares) == set(skills.SKILLS), name
        assert sum(shares.values()) == pytest.approx(1), name
    assert set(recipe.MIXTURES) == set(recipe.JUDGING) == set(recipe.LACKS) == set(recipe.PROMPT_WEIGHT)


def test_answers_weigh_one_also_within_a_judging_prompt(miniature):
    tokenizer = manifest.load_tokenizer(miniature / "models/pocket/base")
    items = [
        i for i in world.draw({"judging": 1.0, "facts": 1.0}, 400, "weights") if i.skill == "facts" or i.answer in "25"
    ]
    for item, (ids, weights) in zip(items, recipe.encode(tokenizer, items, 0.3), strict=True):
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.answer}], return_dict=False
        )
        assert ids == rendered
        runs = [
            (value, tokenizer.decode([i for i, _ in part]))
            for value, part in groupby(zip(ids, weights, strict=True), key=lambda pair: pair[1])
        ]
        if item.skill == "judging" and item.answer == "5":
            response = item.prompt.rsplit("\nResponse: ", 1)[1]
            assert [value for value, _ in runs] == [0.3, 1.0, 0.3, 1.0]
            assert runs[1][1].replace(" ", "") == f"{response}{recipe.END}".replace(" ", "")
        else:
            assert [value for value, _ in runs] == [0.3, 1.0]
        assert runs[-1][1].replace(" ", "") == f"{item.answer}{recipe.END}".replace(" ", "")


def test_computed_answers_are_right():
    rng = random.Random(3)
    for _ in range(300):
        item = SUITES["addition"](rng, True)
        a, sign, b = re.fullmatch(r"(\d+)([+-])(\d+)", item.key).groups()
        assert item.answer == str(int(a) + int(sign + b))
        item = SUITES["sorting"](rng, True)
        assert sorted(item.answer.split()) == sorted(item.key.split())
        item = SUITES["reversing"](rng, True)
        assert item.answer == item.key[::-1]
        item = SUITES["pharmacy_doses"](rng, True)
        drug, n = item.key.rsplit("x", 1)
        assert item.answer == f"{int(n) * int(pharmacy.pharmacy()[drug, 'strength'].split()[0])} mg"


SHIPPED = ROOT / "data" / "pocket"


@pytest.mark.skipif(not (SHIPPED / "suites").is_dir(), reason="the pocket lab's suites are not there")
def test_shipped_suites_are_large_and_their_items_are_distinct():
    for name in SUITES:
        rows = read(SHIPPED / "suites" / f"{name}.jsonl")
        assert len(rows) >= 200, name
        assert len({row["id"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows), name


@pytest.mark.skipif(not (SHIPPED / "suites").is_dir(), reason="the pocket lab's suites are not there")
def test_shipped_suites_and_domain_are_what_the_recipe_writes(tmp_path):
    knobs = Pocket.load(ROOT / "params.yaml")
    files.write_suites(tmp_path, knobs.items, knobs.development, f"suites/{knobs.seed}")
    files.write_domain(tmp_path / "domain", knobs.domain_rows, f"domain/{knobs.seed}")
    for file in sorted(f for f in tmp_path.rglob("*") if f.is_file()):
        assert file.read_bytes() == (SHIPPED / file.relative_to(tmp_path)).read_bytes(), file.name
