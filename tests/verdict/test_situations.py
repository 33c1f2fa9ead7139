"""Dishonest and careless pull requests: what `holdfast gate` says to each. docs/verdict.md has the table of them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate_project as project
import pytest
from gate_project import SUITES, edit_items, edit_json
from helpers import ROOT, set_params

from holdfast.commands import gate as command
from holdfast.core import records, storage
from holdfast.core.errors import ExitCode, UserError

GATE, METRICS = Path("reports/gate.json"), Path("reports/metrics.json")
BASE, ARM = Path("reports/eval/base"), Path("reports/eval/holdfast")
Edit = Callable[[], None]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write to it."""
    return project.make_project(tmp_path_factory.mktemp("honest") / "project")


def judge(**options: Any) -> int:
    """Exit code of `holdfast gate` in the working directory."""
    try:
        return command.main(None, **options)
    except UserError as error:
        print(error)
        return ExitCode.BROKEN


def forge_lock(edit: Edit) -> Edit:
    """The same, and the hashes in dvc.lock patched to fit."""

    def both() -> None:
        edit()
        project.write_lock(Path())

    return both


def swap_settings() -> None:
    files = [Path("reports/eval") / arm / "settings.json" for arm in ("holdfast", "domain-only")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    for file, text in zip(files, reversed(texts), strict=True):
        file.write_text(text, encoding="utf-8")


def run_again(edit: Edit) -> Edit:
    """The same, then the gate's stage is run and everything committed: nothing is stale."""

    def both() -> None:
        edit()
        project.decide(Path())
        project.write_lock(Path())

    return both


def edit_gate(edit: Callable[[Any], Any]) -> Edit:
    return lambda: edit_json(GATE, edit)


def in_arm(edit: Callable[[Any], Any]) -> Edit:
    return edit_gate(lambda gate: edit(gate["arms"]["holdfast"]))


def edit_arm(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Edit:
    return lambda: edit_items(ARM, change)


def edit_both(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], settings: bool = True) -> Edit:
    """Items of base and arms alike, and the number of items in their settings."""

    def both() -> None:
        for folder in Path("reports/eval").iterdir():
            edit_items(folder, change)
            items = records.read("items", folder / "items.parquet")
            counts = {name: sum(row["suite"] == name for row in items) for name in SUITES}
            edit_json(folder / "settings.json", lambda s, n=counts: [s["suites"][k].update(items=n[k]) for k in n])

    return both


def all_right(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    general = [row | {"correct": 1.0} if SUITES[row["suite"]][0] == "general" else row for row in rows]
    return [row | {"response": row["target"]} if row["correct"] else row for row in general]


def twice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    doubled = [row | {"id": row["id"] + "-again"} for row in rows if row["suite"] == "facts"]
    return rows + doubled


def of_another_suite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows + [row | {"id": f"x{row['id']}", "suite": "easy"} for row in rows if row["suite"] == "facts"]


def change_settings(folder: Path, edit: Callable[[Any], Any]) -> Edit:
    return lambda: edit_json(folder / "settings.json", edit)


def replace(old: str, new: str, file: str) -> Edit:
    return lambda: Path(file).write_text(Path(file).read_text().replace(old, new, 1))  # type: ignore[func-returns-value]


def drop_from_params(name: str) -> Edit:
    return lambda: set_params(Path(), **{f"evaluate__suites__{name}": ...})


def untouched_base() -> None:
    """The base given out for the tuned model."""
    shutil.copyfile(BASE / "items.parquet", ARM / "items.parquet")


def copy_evaluation(of: str, over: str) -> Edit:
    def copy() -> None:
        for file in ("items.parquet", "settings.json"):
            shutil.copyfile(BASE.parent / of / file, BASE.parent / over / file)

    return copy


def copy_training() -> None:
    set_params(Path(), retrain={"arms": ["holdfast"], "seeds": [7]})
    shutil.copytree(ARM, BASE.parent / "holdfast-7")


def forget_domain() -> None:
    """No suite of the domain any more, and none asked for."""
    for folder in Path("reports/eval").iterdir():
        edit_items(folder, lambda rows: [row for row in rows if row["suite"] != "pharmacy"])
        edit_json(folder / "settings.json", lambda s: s["suites"].pop("pharmacy"))
    set_params(Path(), evaluate__suites__pharmacy=..., gate__min_domain_gain=0.0)


def raise_chance() -> None:
    for folder in Path("reports/eval").iterdir():
        edit_json(folder / "settings.json", lambda s: s["suites"]["facts"].update(chance=0.89))
    set_params(Path(), evaluate__suites__facts__chance=0.89)


def remove_items() -> None:
    for folder in Path("reports/eval").iterdir():
        (folder / "items.parquet").unlink()
    edit_lock(lambda stages: [stages[name].update(outs=[]) for name in stages if name.startswith("evaluate")])


def edit_lock(edit: Callable[[Any], Any]) -> None:
    import yaml

    content = yaml.safe_load(Path("dvc.lock").read_text())
    edit(content["stages"])
    Path("dvc.lock").write_text(yaml.safe_dump(content))


SITUATIONS: dict[str, tuple[Edit, int, str]] = {
    # what was done: (how, exit code, what is said)
    "nothing": (lambda: None, 0, "verdict: pass"),
    # --- gate.json by hand
    "gate.json is reduced to `{\"verdict\": \"pass\", \"arms\": {}}`, its hash patched in dvc.lock": (
        forge_lock(lambda: storage.write_json(GATE, {"verdict": "pass", "arms": {}})), 3, "is not a verdict of this version",
    ),
    "an arm is marked fail under a pass": (
        forge_lock(in_arm(lambda arm: arm.update(verdict="fail"))), 2, "arms.holdfast.verdict is 'fail'",
    ),
    "a fail is rewritten as a pass, reasons removed": (
        forge_lock(edit_gate(lambda gate: gate["arms"]["domain-only"].update(verdict="pass", reasons=[]))), 2,
        "arms.domain-only.verdict is 'pass', where its own numbers and the thresholds give 'fail'",
    ),
    "the score after training is raised": (
        forge_lock(in_arm(lambda arm: arm["general"].update(after=0.9, change=0.1))), 2, "arms.holdfast.general.after",
    ),
    "an arm is taken out": (
        forge_lock(edit_gate(lambda gate: gate["arms"].pop("holdfast"))), 2, "the arm 'holdfast' of params.yaml has no verdict",
    ),
    "a suite is taken out": (
        forge_lock(in_arm(lambda arm: arm["suites"].pop("judging"))), 2, "holdfast: the verdict leaves out judging",
    ),
    "a suite is taken out, and the settings that name it": (
        forge_lock(lambda: (in_arm(lambda arm: arm["suites"].pop("judging"))(), (BASE / "settings.json").unlink())), 2,  # type: ignore[arg-type,return-value,func-returns-value]
        "settings.json is missing: which suites were to be judged is not known",
    ),
    "a duplicate key in gate.json": (
        forge_lock(lambda: GATE.write_text(GATE.read_text().replace("{", '{"verdict": "fail",', 1))), 3, "'verdict' appears twice",  # type: ignore[arg-type,return-value,func-returns-value]
    ),
    "dvc.lock is a folder": (lambda: (Path("dvc.lock").unlink(), Path("dvc.lock").mkdir()), 3, "dvc.lock: is no file"),  # type: ignore[func-returns-value]
    "dvc.lock is a link to nowhere": (lambda: (Path("dvc.lock").unlink(), Path("dvc.lock").symlink_to("x")), 3, "dvc.lock: is no file"),  # type: ignore[func-returns-value]
    "dvc.lock holds the marks of a merge": (lambda: Path("dvc.lock").write_text("<<<<<<< HEAD\n" + Path("dvc.lock").read_text()), 3, "not valid YAML"),  # type: ignore[func-returns-value]
    "a suite has a name that looks the same": (
        forge_lock(lambda: GATE.write_text(GATE.read_text().replace("judging", "judg\u0456ng"))), 2, "the verdict leaves out judging",  # type: ignore[arg-type,return-value,func-returns-value]
    ),
    "the margin in gate.json is raised": (
        forge_lock(edit_gate(lambda gate: gate.update(margin=0.5))), 2, "margin is '0.5'",
    ),
    "the margin is raised wherever gate.json names it": (
        forge_lock(edit_gate(lambda gate: (gate.update(margin=0.5), gate["provenance"]["gate"].update(margin=0.5)))), 2,
        "gate.margin is 0.05 in params.yaml, and the verdict was decided with 0.5",
    ),
    "a number is not finite": (
        lambda: GATE.write_text(re.sub(r'"bound": [^,]+', '"bound": NaN', GATE.read_text(), count=1)), 3, "not finite",  # type: ignore[dict-item,func-returns-value]
    ),
    "metrics.json is edited": (
        forge_lock(lambda: edit_json(METRICS, lambda m: m["holdfast"].update(general=0.99))), 2, "metrics.json: holdfast.general is '0.99'",
    ),
    "metrics.json is removed": (lambda: METRICS.unlink(), 2, "metrics.json is missing"),
    # --- stale results
    "the margin is raised and nothing is run": (
        lambda: set_params(Path(), gate__margin=0.5), 2, "gate.margin is 0.5 in params.yaml",
    ),
    "a margin becomes a per cent of the base's score and nothing is run": (
        lambda: set_params(Path(), gate__margin="90%"), 2, "gate.margin is 90% in params.yaml",
    ),
    "a seed is added to `retrain` and nothing is run": (
        lambda: set_params(Path(), retrain={"arms": ["holdfast"], "seeds": [7]}), 2, "the arm 'holdfast-7' of params.yaml has no verdict",
    ),
    "epochs are changed and nothing is run": (
        lambda: set_params(Path(), mix__epochs=7), 2, "mix.epochs changed since mix@",
    ),
    "an arm is added and nothing is run": (
        lambda: set_params(Path(), arms=["domain-only", "holdfast", "new"]), 2, "the arm 'new' of params.yaml has no verdict",
    ),
    "a suite is dropped from params.yaml and nothing is run": (
        drop_from_params("judging"), 2, "the suite 'judging' was evaluated, and params.yaml does not name it",
    ),
    "a suite is added to params.yaml and not evaluated": (
        forge_lock(lambda: set_params(Path(), evaluate__suites__new={"role": "general"})), 2, "the suite 'new' of params.yaml was not evaluated",
    ),
    "the gate's code is edited and nothing is run": (
        replace("print(", "print('pass') or print(", "stages/gate.py"), 2, "the code of the gate changed since: stages.gate",
    ),
    "the base is another model than was evaluated": (
        lambda: edit_json(Path("models/manifest/base.json"), lambda m: m.update(fingerprint="another")), 2, "is not the model that was evaluated",
    ),
    "the arm was trained again and not evaluated": (
        lambda: edit_lock(lambda s: s["finetune@holdfast"]["outs"][0].update(md5="again.dir")), 2,
        "models/holdfast was evaluated as another model than was trained",
    ),
    "dvc.lock is removed": (lambda: Path("dvc.lock").unlink(), 2, "dvc.lock is missing, or does not hold the stage gate"),
    "dvc.yaml is removed": (lambda: Path("dvc.yaml").unlink(), 2, "dvc.yaml is missing, or has no stage gate"),
    "the settings of an arm's evaluation are removed": (
        lambda: (ARM / "settings.json").unlink(), 2, "settings.json is missing: whether the arm was evaluated like the base is not known",
    ),
    "items are neither here nor in dvc.lock": (remove_items, 2, "is neither here nor in dvc.lock"),
    # --- evaluations by hand
    "an items file is edited": (edit_arm(all_right), 2, "items.parquet is another file than the verdict was computed from"),
    "an items file is edited, its hash patched in dvc.lock": (
        forge_lock(edit_arm(all_right)), 2, "items.parquet is another file than the verdict was computed from",
    ),
    "the settings of an evaluation are edited": (
        forge_lock(change_settings(ARM, lambda s: s["engine"].update(seed=2))), 2, "settings.json is another file",
    ),
    "a suite's role in the settings is `none`": (
        run_again(change_settings(ARM, lambda s: s["suites"]["facts"].update(role="none"))), 3, "not the settings of an evaluation (suites.facts.role",
    ),
    "a suite's chance in the settings is -1": (
        run_again(change_settings(ARM, lambda s: s["suites"]["facts"].update(chance=-1))), 3, "not the settings of an evaluation (suites.facts.chance",
    ),
    "the arm was evaluated with other settings": (
        run_again(change_settings(ARM, lambda s: s["engine"].update(seed=2))), 2, "evaluated with other settings than the base model",
    ),
    "items appear twice": (run_again(edit_arm(twice)), 2, "200 items appear twice in the tuned evaluation"),
    "items stand in another order": (run_again(edit_arm(lambda rows: rows[::-1])), 0, "verdict: pass"),
    "items of a suite that the settings do not name": (run_again(edit_arm(of_another_suite)), 2, "items of 'easy', a suite that its settings do not name"),
    "a suite's items are missing": (
        run_again(edit_arm(lambda rows: [row for row in rows if row["suite"] != "judging"])), 2, "judging: 200 of 200 items are missing",
    ),
    "an outcome is NaN": (
        run_again(edit_arm(lambda rows: [rows[0] | {"correct": float("nan")}, *rows[1:]])), 2, "a score is not between 0 and 1",
    ),
    "other prompts": (
        run_again(edit_arm(lambda rows: [row | {"prompt_hash": "x"} for row in rows])), 2, "have another prompt than in the base evaluation",
    ),
    "one item per suite": (
        run_again(edit_both(lambda rows: [row for row in rows if row["item_id"].endswith("-0000")])), 1, "too few items",
    ),
    "a dead endpoint: one answer to everything": (
        run_again(edit_arm(lambda rows: [row | {"response": "503", "correct": 0.0} for row in rows])), 2, "dead endpoint",
    ),
    # --- one model under two names
    "an arm's evaluation is the base's": (run_again(copy_evaluation("base", "holdfast")), 2, "reports/eval/holdfast is of the same model as reports/eval/base"),
    "a good arm's evaluation is copied over a failing arm's": (
        run_again(copy_evaluation("holdfast", "domain-only")), 2, "reports/eval/holdfast is of the same model as reports/eval/domain-only",
    ),
    "one training is given out for several": (
        run_again(copy_training), 2, "reports/eval/holdfast-7 is of the same model as reports/eval/holdfast",
    ),
    "the settings of two arms are swapped": (run_again(swap_settings), 2, "reports/eval/holdfast/settings.json is of another evaluation, that of 'domain-only'"),
    "an arm's settings no longer say which model was asked": (
        run_again(change_settings(ARM, lambda s: s.pop("weights"))), 2, "does not say which model was asked",
    ),
    "an arm is the folder of another": (lambda: set_params(Path(), arms=["domain-only", "../eval/holdfast"]), 3, "arm '../eval/holdfast' is no name"),
    "an arm is named twice": (lambda: set_params(Path(), arms=["holdfast", "holdfast"]), 3, "arm 'holdfast' is named twice"),
    "an arm is called base": (lambda: set_params(Path(), arms=["base"]), 3, "arm 'base' has the name of a model or of a folder"),
    "an arm has a name that looks the same": (lambda: set_params(Path(), arms=["h\u043eldfast"]), 3, "arm 'h\\u043eldfast' is no name"),
    # --- what was not measured
    "the untouched base is given out for the tuned model": (run_again(untouched_base), 1, "short of the 20.0 asked"),
    "no domain suite, and no gain asked for": (run_again(forget_domain), 0, "verdict: pass (domain not measured)"),
    "chance is raised until the base is at chance": (run_again(raise_chance), 0, "facts is set aside: "),
}  # fmt: skip


@pytest.mark.parametrize("what", SITUATIONS)
def test_situation(what: str, honest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, code, said = SITUATIONS[what]
    folder = shutil.copytree(honest, tmp_path / "project")
    with contextlib.chdir(folder):
        edit()
        capsys.readouterr()
        found, shown = judge(), capsys.readouterr().out
    assert (found, said in shown) == (code, True), shown
    assert "verdict: pass" not in shown or code == 0


def edit_bound(gate: Any) -> None:
    gate["arms"]["domain-only"]["general"].update(low=-0.001, high=0.0, bound=-0.001)


def without_a_remote() -> None:
    forge_lock(edit_gate(lambda gate: gate["arms"]["holdfast"]["suites"]["facts"].update(mcnemar_p=0.9)))()


VERIFIED: dict[str, tuple[Edit, int, str]] = {
    # what only the items can tell: `holdfast gate --verify`
    "nothing, verified": (lambda: None, 0, "verified: decided anew from 800 items"),
    "a p-value in gate.json is edited, its hash patched in dvc.lock": (
        without_a_remote, 2, "arms.holdfast.suites.facts.mcnemar_p is '0.9', and computed from the items",
    ),
    "intervals in gate.json are edited, all hashes patched": (
        forge_lock(lambda: (edit_json(GATE, edit_bound), follow())), 2, "general.bound is '-0.001', and computed from the items",
    ),
}  # fmt: skip


def follow() -> None:
    """What a careful forger does: every word derived anew from the edited numbers, metrics.json too."""
    from holdfast.params.gate import Gate
    from holdfast.verdict import decision, run, summary

    content = storage.read_json(GATE)
    params = Gate.load()
    arms = {name: decision.decide_arm(params, arm, content["noise"]) for name, arm in content["arms"].items()}
    storage.write_json(GATE, content | run.decide_run(params, arms, content["noise"]))
    storage.write_json(METRICS, summary.compute_metrics(arms))


@pytest.mark.parametrize("what", VERIFIED)
def test_what_only_items_tell(what: str, honest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, code, said = VERIFIED[what]
    folder = shutil.copytree(honest, tmp_path / "project")
    with contextlib.chdir(folder):
        edit()
        capsys.readouterr()
        assert judge() == 0, "without the items nobody can tell"
        capsys.readouterr()
        found, shown = judge(verify=True), capsys.readouterr().out
    assert (found, said in shown) == (code, True), shown


def test_the_table_of_situations_is_that_of_the_documentation() -> None:
    text = (ROOT / "docs/verdict.md").read_text(encoding="utf-8")
    table = text.split("## Dishonest or careless")[1].split("\n## ")[0]
    commands, around = table.split("And around it:")
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|", commands, re.MULTILINE))
    for what, (_, code, said) in (SITUATIONS | VERIFIED).items():
        assert rows.pop(what, "").startswith(f"{int(code)} "), what
        assert f"| {said.strip()}" in commands, f"{what}: what is said"
    assert set(rows) == {"situation"}, "rows without a test"
    assert len(SITUATIONS | VERIFIED) >= 25
    named = re.findall(r"`(tests/[\w/]+\.py)(?: -k (\w+))?`", around)
    assert len(named) >= 8
    for file, word in named:
        names = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert names and any((word or "test") in name for name in names), f"{file} -k {word}"


def test_every_table_of_simulations_names_the_command_that_prints_it() -> None:
    """A section of docs/verdict.md that holds a table of measured figures names a module of benchmarks/ that is there."""
    text = (ROOT / "docs/verdict.md").read_text(encoding="utf-8")
    sections = [part for part in text.split("\n## ") if re.search(r"^\|.*\d\.\d( %)? \|", part, re.MULTILINE)]
    assert len(sections) >= 6
    for section in sections:
        commands = re.findall(r"`python -m ([\w.]+)(?: (\w+))?", section)
        assert commands or "(`pytest tests/" in section, section.splitlines()[0]
        for module, _ in commands:
            assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    printed = set(re.findall(r"benchmarks\.speed\.gate (\w+)", text))
    assert printed == {"errors", "detectable", "scale", "clusters", "trainings", "flaky"}
