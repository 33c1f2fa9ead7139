"""holdfast/data/overlap.py: evaluation items are found in every disguise that is promised, and clean rows are left alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from holdfast.data import overlap

LONG = "the old fox crosses nine cold rivers before dawn and never once looks back"
WORDS = [
    f"{a}{b}"
    for a in "ba be bi bo bu da de di do du fa fe fi fo fu".split()
    for b in "la le li lo lu ra re ri ro ru".split()
]


def index(common: int = 5, coverage: float = 0.5, **suites: list[str]) -> overlap.EvaluationIndex:
    return overlap.EvaluationIndex(suites, 8, common, coverage)


def near_duplicates(texts: list[str], threshold: float) -> list[int | None]:
    return overlap.near_duplicates(overlap.signatures([overlap.words(text) for text in texts]), texts, threshold)


@pytest.mark.parametrize("text", ["What is 7 + 2?", "what IS 7 + 2", "  What is\n7 + 2 ?! ", "What is ７ + 2?"])
def test_the_item_itself_is_found_whatever_its_case_and_spacing(text):
    assert index(addition=["What is 7 + 2?"]).match(text) == ("addition", "the item itself")


def test_a_sign_makes_another_question():
    assert index(addition=["What is 7 + 2?"]).match("What is 7 - 2?") is None


def test_a_text_that_contains_a_short_item_is_found():
    found = index(facts=["Name the river of Tresa."]).match("Hello! Name the river of Tresa. Thank you very much.")
    assert found == ("facts", "contains the item: name the river of tresa")
    assert index(facts=["Name the river of Tresa."]).match("Name the river of Drosa.") is None


def test_an_item_of_three_words_counts_only_as_the_whole_text():
    short = index(forms=["Plural of dog?"])
    assert short.match("plural of dog") is not None
    assert short.match("What is the plural of dog in English?") is None


def test_half_of_an_item_is_too_much_and_less_is_not():
    words = LONG.split()  # 14 words, all equally rare
    found = index(reading=[LONG])
    for shared, caught in ((9, True), (8, True), (7, False)):  # 7 words share no 8-gram
        match = found.match(f"Tell me: {' '.join(words[3 : 3 + shared])}, or not?")
        assert (match is not None) == caught, shared
    assert index(coverage=0.6, reading=[LONG]).match(f"Tell me: {' '.join(words[3:11])}, or not?") is None  # 8 of 14
    suite, how = index(coverage=0.6, reading=[LONG]).match(f"Tell me: {' '.join(words[3:12])}, or not?")
    assert (suite, how) == ("reading", f"holds 64% of the item: {LONG}")


def test_many_words_of_a_long_item_are_too_many_whatever_part_they_are():
    item = sentences(1, length=200)[0]
    words = item.split()
    assert index(mmlu=[item]).match(" ".join(words[50:82])) is not None  # 32 = 4 * 8
    assert index(mmlu=[item]).match(" ".join(words[50:81])) is None


def test_the_phrasing_of_a_task_is_no_overlap():
    phrase = "please sort the following words in alphabetical order now"
    items = [f"{phrase}: {WORDS[2 * i]} {WORDS[2 * i + 1]}" for i in range(6)]
    found = index(sorting=items)
    assert found.match(f"{phrase}: one two") is None
    assert found.match(f"well then {phrase}: {WORDS[6]} {WORDS[7]}, thanks")[0] == "sorting"
    assert found.match(items[3]) == ("sorting", "the item itself")


def test_rare_words_weigh_more_than_phrasing():
    """Each text shares 9 of 11 words with an item; what decides is whether the rare ones are among them."""
    phrase = "rate the response to this instruction from one to five"
    items = [f"{phrase}: {WORDS[3 * i]} {WORDS[3 * i + 1]} {WORDS[3 * i + 2]}" for i in range(40)]
    found = index(common=100, judging=items)
    assert found.match(f"{phrase}: what is this") is None
    assert found.match("hello: this instruction from one to five: " + " ".join(WORDS[:3])) is not None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Don't panic", "Don’t panic"),
        ("don't", "dont"),
        ("1,000 men", "1000 men"),
        ("a well-known _fact_", "A well known fact."),
        ("**Bold** move", "bold move"),
        ("zero\u200bwidth", "zerowidth"),
        ("ﬁne", "fine"),
        ("7+2", "7 + 2"),
        ("10-12", "10 12"),
        ("10 - 12", "10 12"),
        ("10–12", "10-12"),
        ("10 — 12", "10-12"),
        ("10−12", "10 12"),
        ("10〜12", "10 12"),
        ("１０‐１２", "10-12"),
        ("covid-19", "COVID 19"),
        ("10km", "10 km"),
        ("3 × 4 ÷ 2", "3 * 4 / 2"),
        ("−5", "-5"),
        ("½", "1/2"),
        ("x²", "x 2"),
        ("2**3", "2 3"),
        ("> 5 men", "5 men"),
        ("**5** men", "5 men"),
        ("12\u202f000 men", "12,000 men"),
        ("don´t donʼt", "dont dont"),
        ("٣٤", "34"),
        ("१२ घर", "12 घर"),
        ("１，０００", "1000"),
        ("read\u202eer", "reader"),
        ("A\ufe0f", "a"),
        ("ШКОЛА", "школа"),
        ("ΟΔΟΣ", "οδος"),
        ("Straße", "STRASSE"),
        ("שָׁלוֹם", "שלום"),
        ("كَتَبَ", "كتب"),
        ("كـتب", "كتب"),
        ("ﾗｰﾒﾝ", "ラーメン"),
        ("法国，首都", "法国首都"),
        ("cafe\u0301", "café"),
    ],
)
def test_punctuation_and_spelling_of_characters_do_not_matter(a, b):
    assert overlap.words(a) == overlap.words(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("7 + 2", "7 - 2"),
        ("50%", "50"),
        ("x = 3", "x > 3"),
        ("-5", "5"),
        ("1,5", "15"),
        ("6 / 2", "6 - 2"),
        ("3 * 4", "3 + 4"),
        ("is -5 or", "is 5 or"),
        ("हिन्दी", "हन्दा"),
        ("ราคา", "รอคอ"),
    ],
)
def test_signs_and_numbers_do_matter(a, b):
    assert overlap.words(a) != overlap.words(b)


def test_the_first_suite_that_has_an_item_is_named():
    assert index(one=[LONG], two=[LONG]).match(LONG) == ("one", "the item itself")


def test_an_hundred_planted_items_are_all_caught_among_clean_rows():
    rng = random.Random(0)
    texts = [" ".join(rng.sample(WORDS, rng.randint(4, 20))) for _ in range(1100)]
    items, clean = texts[:100], texts[100:]
    found = index(first=items[:50], second=items[50:])
    planted = [f"{rng.choice(WORDS)} {item.upper()}, {rng.choice(WORDS)}!" for item in items]
    assert [found.match(text)[0] for text in planted] == ["first"] * 50 + ["second"] * 50
    assert [text for text in clean if found.match(text)] == []


def test_no_evaluation_items_match_nothing():
    assert index().match(LONG) is None


def sentences(count: int, seed: int = 0, length: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(length)) for _ in range(count)]


def test_near_duplicates_are_found_and_point_to_an_earlier_kept_text():
    texts = sentences(60)
    edited = [" ".join(["other", *text.split()[1:]]) for text in texts[:30]]  # 37 of 38 n-grams shared: similarity 0.95
    found = near_duplicates(texts + edited, 0.8)
    assert found[:60] == [None] * 60
    assert found[60:] == list(range(30))


def test_similarity_below_the_threshold_is_no_duplicate():
    half = " ".join(sentences(1)[0].split()[:20])
    a, b = (half + " " + " ".join(s.split()[:20]) for s in sentences(2, seed=1))
    assert near_duplicates([a, b], 0.8) == [None, None]  # 18 of 58 n-grams shared
    assert near_duplicates([a, b], 0.3) == [None, 0]


def test_similarity_just_above_the_threshold_is_enough():
    """36 of 40 n-grams shared, or 34 of 42 (0.81): a net cast too narrow misses one in seven of the latter."""
    texts = sentences(200)
    for edited in (2, 4):
        near = [" ".join([*"vwxy"[:edited], *text.split()[edited:]]) for text in texts]
        assert near_duplicates(texts + near, 0.8)[200:] == list(range(200)), edited


def test_what_only_resembles_a_removed_text_is_kept():
    """b is removed for a; c is near b (35 of 41 n-grams) but not near a (32 of 44)."""
    chains = []
    for text in sentences(10):
        words = text.split()
        chains += [words, ["x", "y", "z", *words[3:]], ["x", "y", "z", *words[3:-3], "u", "v", "w"]]
    found = near_duplicates([" ".join(words) for words in chains], 0.8)
    assert found == [expected for a in range(0, 30, 3) for expected in (None, a, None)]


def test_candidates_of_the_sketch_are_confirmed():
    """Similarity 0.727 lies between the sketch's threshold and ours."""
    pairs = [(s, " ".join(["x", "y", "z", *s.split()[3:-3], "u", "v", "w"])) for s in sentences(20)]
    assert near_duplicates([text for pair in pairs for text in pair], 0.8) == [None] * 40


def test_case_and_punctuation_do_not_hide_a_duplicate():
    text = sentences(1)[0]
    assert near_duplicates([text, text.upper() + "!!"], 1.0 - 1e-9) == [None, 0]


def test_short_texts_are_compared_whole():
    assert near_duplicates(["red fox", "Red fox!", "red dog", "red"], 0.8) == [None, 0, None, None]


def test_threshold_one_leaves_duplicates_to_the_exact_filter():
    assert near_duplicates(["red fox", "red fox"], 1.0) == [None, None]


def test_repetition_by_hand():
    assert overlap.repetition("a b c a b c a b c") == pytest.approx(3 / 7)  # "a b c" 3 times among 7 three-grams
    assert overlap.repetition("x " * 6) == 1.0
    assert overlap.repetition("x x x x x") == 0.0  # three n-grams: too short to say
    loop = "one two three four five six seven eight nine ten " * 4  # 33 8-grams, 10 of them distinct
    assert overlap.repetition(loop) == pytest.approx(23 / 33)


def test_signatures_estimate_the_jaccard_similarity():
    rng = random.Random(5)
    for shared in (5, 20, 35):
        common = [rng.choice(WORDS) + str(i) for i in range(shared)]
        pair = [tuple(common + [f"{side}{i}" for i in range(40 - shared)]) for side in "ab"]
        a, b = (set(overlap.ngrams(words, 3)) for words in pair)
        marks = overlap.signatures(pair)
        assert (marks[0] == marks[1]).mean() == pytest.approx(len(a & b) / len(a | b), abs=0.17)  # four standard errors


def test_signatures_do_not_depend_on_the_neighbours_in_the_batch():
    texts = [overlap.words(text) for text in [*sentences(5), "one two", "", "three"]]
    together = overlap.signatures(texts)
    assert all((together[i] == overlap.signatures([text])[0]).all() for i, text in enumerate(texts))


def test_neighbours_by_cosine_in_blocks():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 8))
    vectors = np.concatenate([vectors, vectors[:10] + 0.01 * rng.standard_normal((10, 8))])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert list(overlap.nearest(vectors[50:], vectors[:50], 0.99, block=7)) == [[i] for i in range(10)]
    assert list(overlap.earlier_neighbours(vectors, 0.99, block=7)) == [[]] * 50 + [[i] for i in range(10)]


def test_similarity_of_bags_weighs_rare_words():
    rarity = overlap.Rarity()
    for name in WORDS[:100]:
        rarity.add(overlap.words(f"What is the river of {name}?"))
    same = rarity.similarity(overlap.words("Name the river of bala."), overlap.words("What is the river of bala?"))
    other = rarity.similarity(overlap.words("What is the river of bale?"), overlap.words("What is the river of bala?"))
    assert other < 0.1 < 0.4 < same
    assert rarity.similarity(("a", "b"), ("b", "a")) == 1


def test_the_reason_is_the_same_in_every_process():
    import subprocess
    import sys

    code = (
        "from holdfast.data.overlap import EvaluationIndex as E;"
        "t='one two three four five six seven eight nine ten';"
        "print(E({'a': [t, t + ' eleven']}, 3, 5).match('x ' + t))"
    )
    seen = set()
    for seed in range(4):
        env = {"PYTHONHASHSEED": str(seed), "PATH": ""}
        seen.add(
            subprocess.run(
                [sys.executable, "-c", code],
                env=env,
                capture_output=True,
                text=True,
                check=True,
                cwd=Path(__file__).parents[2],
            ).stdout
        )
    assert len(seen) == 1
