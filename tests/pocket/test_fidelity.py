"""holdfast/pocket/fidelity.py reads the world's questions back: skill and answer of every wording, and nothing else counts."""

from __future__ import annotations

import pytest

from holdfast.pocket import fidelity, recipe, skills, world


@pytest.mark.parametrize("skill", world.GENERAL)
def test_every_question_of_the_world_is_read_back(skill):
    drawn = world.draw({**dict.fromkeys(skills.SKILLS, 0.01), skill: 10.0}, 800, f"read/{skill}")
    drawn += world.evaluation_items(skill, 100, "read") if skill != "judging" else []
    for item in drawn:
        found = fidelity.read_question(item.prompt)
        assert found is not None, item.prompt
        assert found.skill == item.skill, item.prompt
        if item.skill == "judging":
            if item.prompt.count("Instruction:") > 1:  # whether an inner 1 is a 1 or a 2 cannot be read back
                continue
            assert found.answer == {"2": "1"}.get(item.answer, item.answer), item.prompt
        else:
            assert found.answer == item.answer, item.prompt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "What is the river of Atlantis?",
        "What is 7 + 2?",
        "What is 12 + 12?",
        "Which is larger, 12 or 12?",
        "Sort ascending: 3 3 1",
        "Sort ascending: 3 1",
        "Reverse: a b",
        "Reverse: a b q",
        "Count the d in: a b c a",
        "Give the past of xyzzy.",
        "Give the past of.",
        "Translate to Velkan: the red red sees the cat",
        "Which does not belong: fox, wolf, bear, hare?",
        "Write fox bear joined by hope.",
        "Which does not belong: fox, apple, bear, plum?",
        "Rate the response from 1 to 5.\nInstruction: What?\nResponse: 3",
        "What is 12 + 7? Please.",
        "Which does not belong: fox, fox, bear, plum?",
    ],
)
def test_what_only_looks_like_a_question_is_not_valid(text):
    assert fidelity.read_question(text) is None


def test_the_true_mixture_is_what_the_recipe_draws():
    shares = fidelity.true_mixture()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["judging"] == pytest.approx(sum(recipe.JUDGING["base"]) / 2)


def test_the_distance_by_hand_and_the_curve_on_the_truth_itself():
    assert fidelity.distance({"a": 0.5, "b": 0.5}, {"a": 0.8, "c": 0.2}) == pytest.approx(0.5)
    drawn = world.draw(fidelity.true_mixture(), 4000, "truth", recipe.LACKS["base"])
    texts = [item.prompt for item in drawn]
    rows = fidelity.measure_curve([*texts, "nonsense"], set(texts[:2000]), (400, 4000, 100_000))
    assert [row["samples"] for row in rows] == [400, 4000, 4001]
    assert rows[1]["precision"] == 1.0 > rows[2]["precision"]
    assert rows[1]["distance"] < 0.03
    assert rows[1]["facts"] > 0.8 > 0.6 > rows[0]["facts"]
    assert 0.2 < rows[1]["novel"] < 0.6


def test_the_plot_is_written(tmp_path):
    row = dict(samples=10, distance=0.1, to=0.2, precision=1.0, facts=0.5, distinct=1.0, novel=0.1)
    fidelity.plot_curve([row, {**row, "samples": 20}], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
