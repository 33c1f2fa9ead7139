"""holdfast/evaluation/suites.py: names, groups and metrics are vetted before a model is asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import ROOT, SHARED, holdfast, set_params, task

from holdfast.core.errors import UserError
from holdfast.evaluation import harness, suites
from holdfast.params.evaluate import Evaluate

CASES = SHARED / "cases"


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> Path:
    if not (CASES / "suites_group").is_dir():
        pytest.skip("no folder ../shared with suites")
    monkeypatch.chdir(ROOT)  # the cases name their data from there
    return CASES


def evaluate(tasks: Path, **named: Any) -> Evaluate:
    return Evaluate(tasks=str(tasks), suites={name: {"role": "general", **more} for name, more in named.items()})


def test_a_group_is_one_suite_of_its_tasks(cases):
    tasks = suites.load_tasks(evaluate(cases / "suites_group", sums={}), Path("nowhere"))
    assert [task.task_name for task in tasks["sums"]] == ["sums_a", "sums_b"]
    with pytest.raises(UserError) as caught:
        suites.load_tasks(evaluate(cases / "suites_group", sums={}, sums_b={}), Path("nowhere"))
    assert str(caught.value).splitlines() == [
        "evaluate.suites: the suites 'sums' and 'sums_b' both ask the task 'sums_b'",
        "  name the group, or some of its tasks",
    ]


@pytest.fixture
def own(cases: Path, tmp_path: Path) -> Path:
    """A folder of tasks in which a group may be written."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("sums_a", "sums_b"):
        (folder / f"{name}.yaml").write_text((cases / "suites_group" / f"{name}.yaml").read_text())
    return folder


def test_a_group_whose_tasks_count_alike_is_refused_with_its_tasks(own):
    aggregate = "aggregate_metric_list: [{metric: exact_match, weight_by_size: false}]"
    (own / "alike.yaml").write_text(f"group: alike\ntask: [sums_a, sums_b]\n{aggregate}\n")
    with pytest.raises(UserError, match="count alike") as caught:
        suites.load_tasks(evaluate(own, alike={}), Path("nowhere"))
    assert caught.value.do == "name those that you want, each with its role: sums_a, sums_b"


def test_a_tag_and_a_group_in_a_group_are_unfolded(own):
    for name in ("sums_a", "sums_b"):
        file = own / f"{name}.yaml"
        file.write_text(file.read_text() + "tag: tagged\n")
    (own / "outer.yaml").write_text("group: outer\ntask:\n  - group: inner\n    task: [tagged]\n")
    for name in ("tagged", "outer"):
        (tasks,) = suites.load_tasks(evaluate(own, **{name: {}}), Path("nowhere")).values()
        assert sorted(task.task_name for task in tasks) == ["sums_a", "sums_b"]


def sample(number: int, metric: str, value: float, **more: Any) -> dict[str, Any]:
    """As lm-eval logs one item."""
    return {
        "doc": {"question": number}, "doc_id": number, "arguments": [("How many?", {})], "filtered_resps": ["7"],
        "metrics": [metric], "filter": "none", "target": "7", metric: value, **more,
    }  # fmt: skip


def test_each_item_of_a_group_counts_once_under_the_metric_of_its_task():
    samples = {
        "small": [sample(0, "acc", 1.0)],
        "large": [sample(n, "exact_match", 0.0, metrics=["exact_match", "other"], other=1.0) for n in range(3)],
    }
    suite = Evaluate(tasks="", suites={"both": {"role": "general", "chance": 0.1}}).suites["both"]
    rows, used = harness.collect_items("both", suite, samples)
    assert [(row["item_id"], row["correct"]) for row in rows] == [
        ("small/0", 1.0), ("large/0", 0.0), ("large/1", 0.0), ("large/2", 0.0),
    ]  # fmt: skip
    assert len({row["id"] for row in rows}) == 4
    assert used == {"role": "general", "chance": 0.1, "metric": "acc, exact_match", "items": 4, "filter": "none"}
    rows, used = harness.collect_items("both", suite.model_copy(update={"metric": "other"}), samples)
    assert [row["correct"] for row in rows] == [1.0, 1.0, 1.0, 1.0], "small has no metric of that name: its own first"


def test_items_of_a_group_are_found_again_in_their_tasks(cases):
    tasks = suites.load_tasks(evaluate(cases / "suites_group", sums={}), Path("nowhere"))["sums"]
    names = [harness.item_id(doc, number) for number, doc in enumerate(tasks[0].eval_docs)]
    assert harness.find_documents("sums", tasks, [f"sums_b/{names[1]}", f"sums_a/{names[0]}"]) == [
        ("sums_a", [0]), ("sums_b", [1]),
    ]  # fmt: skip
    with pytest.raises(UserError, match="has no item 'sums_c/1'"):
        harness.find_documents("sums", tasks, ["sums_c/1"])


def test_groups_in_groups_and_tags_are_unfolded():
    def entry(cfg: Any = None, tags: Any = ()) -> Any:
        return SimpleNamespace(cfg=cfg, tags=set(tags))

    index = {
        "all": entry(
            {"task": ["stem", {"task": "extra"}, {"group": "odd"}, {"group": "here", "task": ["a", "extra"]}]}
        ),
        "stem": entry({"task": ["physics", "all", {"task": "new", "dataset_path": "x"}]}),
        "odd": entry(None, ["b", "a"]),
        **{name: entry({"task": name}) for name in ("physics", "extra", "a", "b")},
    }
    manager: Any = SimpleNamespace(task_index=index, all_subtasks=["physics", "extra", "a", "b"])
    assert suites.list_members("all", manager) == ["physics", "stem::new", "extra", "a", "b"]


@pytest.mark.parametrize(
    ("name", "more", "do"),
    [
        ("sums_bleu", {}, "it has: exact_match"),
        ("sums_em", {"metric": "bleu"}, "it has: exact_match"),
        ("sums_ppl", {}, "it has: acc"),
        ("sums_ppl", {"metric": "perplexity"}, "it has: acc"),
    ],
)
def test_a_metric_without_a_value_for_each_item_is_refused_with_the_usable_ones(cases, name, more, do):
    with pytest.raises(UserError, match="has no value from 0 to 1 for each item") as caught:
        suites.load_tasks(evaluate(cases / "suites_metrics", **{name: more}), Path("nowhere"))
    assert caught.value.do == do


@pytest.mark.parametrize(("name", "metric"), [("sums_bleu", "exact_match"), ("sums_em", None), ("sums_ppl", "acc")])
def test_a_usable_metric_beside_others_is_taken(cases, name, metric):
    assert suites.load_tasks(evaluate(cases / "suites_metrics", **{name: {"metric": metric}}), Path("nowhere"))


def test_a_metric_that_the_task_does_not_have_is_refused(cases):
    with pytest.raises(UserError, match="suite 'sums_em' has no metric 'acc'"):
        suites.load_tasks(evaluate(cases / "suites_metrics", sums_em={"metric": "acc"}), Path("nowhere"))


def test_a_mean_over_values_beyond_one_is_refused(project):
    task(project / "suites", "percent", [{"id": "a", "prompt": "?", "answer": "x"}])
    file = project / "suites" / "percent.yaml"
    (project / "suites" / "scorer.py").write_text(
        "def score(doc, results):\n    return {'exact_match': 100.0, 'part': 0.5}\n"
    )
    means = "".join(f"- {{metric: {m}, aggregation: mean, higher_is_better: true}}\n" for m in ("exact_match", "part"))
    text = file.read_text().replace(
        "metric_list:\n- aggregation: mean\n  higher_is_better: true\n  metric: exact_match\n", ""
    )
    file.write_text(text + "process_results: !function scorer.score\nmetric_list:\n" + means)
    with pytest.raises(UserError, match="'exact_match' of suite 'percent'") as caught:
        suites.load_tasks(evaluate(project / "suites", percent={}), Path("nowhere"))
    assert caught.value.do == "it has: part"


def test_an_unknown_task_is_named_with_the_nearest_by_load_and_by_validate(project):
    task(project / "suites", "capitals", [{"id": "a", "prompt": "?", "answer": "x"}])
    manager: Any = SimpleNamespace(all_subtasks=["capitals", "hellaswag"], all_tasks=["capitals", "hellaswag"])
    with pytest.raises(UserError, match="no lm-eval task 'hellaswagg'") as caught:
        suites.check_names(evaluate(project / "suites", hellaswagg={}), manager)
    assert caught.value.do.startswith("did you mean 'hellaswag'?")
    (project / "suites" / "capitals.yaml").write_text("group: capitals\ntask: [a, b]\n")
    set_params(project, evaluate={"tasks": str(project / "suites"), "suites": {"capitals": {"role": "general"}}})
    assert "the group 'capitals' names 'a', which is no task" in holdfast(project, "validate")


def test_doctor_says_which_suite_lacks_what(project):
    from holdfast.commands import doctor
    from holdfast.params.whole import Params
    from holdfast.planning.machine import NEEDED, OK

    rows = [{"id": "a", "prompt": "?", "answer": "x"}]
    for name in ("good", "bad"):
        task(project / "suites", name, rows)
    task(project / "suites", "lost", rows)
    (project / "suites" / "lost.jsonl").unlink()
    named = {"good": {}, "bad": {"metric": "bleu"}, "lost": {}}
    named = {name: {"role": "general", **more} for name, more in named.items()}
    set_params(project, evaluate={"tasks": str(project / "suites"), "suites": named})
    lines = list(doctor.check_suites(Params.load()))
    assert [mark for mark, _ in lines] == [NEEDED, NEEDED, OK]
    assert lines[0][1] == "suite bad: suite 'bad' has no metric 'bleu'; it has: exact_match"
    assert lines[1][1].startswith("suite lost: task 'lost' cannot be loaded")
    assert lines[2][1] == "suites: 1 of 3 with their data and metrics"
