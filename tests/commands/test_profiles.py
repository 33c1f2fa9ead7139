"""profiles/: every one loads, resolves, fits its models and names things that exist; `holdfast profile use` loses nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.utils import hydra
from helpers import ROOT, holdfast

from holdfast.commands import profile
from holdfast.core.errors import UserError
from holdfast.core.yaml_text import Loader
from holdfast.params.whole import Params
from holdfast.planning import fit, shapes
from holdfast.reconstruction import amount

NAMES = sorted(file.stem for file in (ROOT / "profiles").glob("*.yaml"))
REAL = [name for name in NAMES if name != "pocket"]


def loaded(name: str) -> Params:
    return Params.load(ROOT / "profiles" / f"{name}.yaml")


@pytest.fixture
def place(project: Path) -> Path:
    """An empty working directory with params.yaml and the profiles."""
    shutil.copytree(ROOT / "profiles", project / "profiles")
    return project


def commit(folder: Path) -> None:
    for command in (
        ["init", "-q"],
        ["add", "params.yaml"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "s"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)


def test_these_profiles_are_there():
    assert NAMES == ["llama-3.1-8b", "paper", "pocket", "qwen2.5-0.5b"]


def test_the_pocket_profile_is_params_yaml():
    same = (ROOT / "profiles" / "pocket.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert same, "params.yaml of the repository has changed: cp params.yaml profiles/pocket.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_dvc_yaml_takes_from_params_is_in_the_profile(name):
    """DVC reads the file itself: a default of ours does not help it."""
    content = yaml.load((ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8"), Loader)
    dag = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\{((?!item)[\w.]+)\}", dag)) | {
        key
        for stage in yaml.safe_load(dag)["stages"].values()
        for key in stage.get("params", [])
        if stage.get("cmd") != "holdfast run pocket" and "${" not in key
    }
    for key in sorted(wanted):
        inner = content
        for part in key.split("."):
            assert part in inner, f"{key} is missing"
            inner = inner[part]


@pytest.mark.parametrize("name", REAL)
def test_lengths_fit_every_known_context_and_hub_models_are_pinned_and_known(name):
    settings = loaded(name)
    contexts = {}
    for member in settings.panel:
        model = settings.models[member]
        if model.hub:
            shape = shapes.find_shape(model, Path("nowhere"))
            assert shape is not None, f"{model.hub} has no entry in shapes.CONFIGS"
            contexts[member] = shape.context
    rubric = (ROOT / settings.judge.rubric).read_text(encoding="utf-8")
    assert settings.base in contexts
    problems = fit.problems(settings, contexts, len(rubric) // 3)
    assert [problem for problem in problems if "endpoint does not serve the arms" not in problem] == []
    assert fit.problems(settings, dict.fromkeys(contexts, 512), len(rubric) // 3) != []  # it can fail


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_arms_are_consistent(name):
    settings = loaded(name)
    assert settings.gate.control in settings.arms
    assert settings.mix.arms[settings.gate.control].share == 0
    assert all(settings.mix.arms[arm].share > 0 for arm in settings.arms if arm != settings.gate.control)
    assert settings.quality.min_rows <= settings.balance.rows
    if settings.reconstruct.samples == "auto":
        assert settings.quality.min_rows <= amount.LEAST, "a small domain would stop at the quality gate"
    else:
        assert settings.balance.rows <= settings.reconstruct.samples
    assert settings.quality.min_clusters <= settings.curate.clusters <= settings.balance.rows
    assert settings.finetune.batch_size % (settings.finetune.micro_batch or 1) == 0
    longest = settings.reconstruct.max_tokens + settings.respond.max_tokens + fit.TEMPLATE_TOKENS
    assert longest <= settings.finetune.max_length, "a replay row may be longer than a training row"
    assert (ROOT / settings.judge.rubric).is_file()
    assert {"general"} <= {suite.role for suite in settings.evaluate.suites.values()}


@pytest.mark.parametrize("name", REAL)
def test_the_small_profile_s_training_fits_its_gpu_and_the_large_ones_are_sharded(name):
    settings = loaded(name)
    shape = shapes.find_shape(settings.models["base"], Path("nowhere"))
    assert shape is not None
    weights = 20 * shape.parameters  # AdamW in fp32, and the base for KL
    logits = 6 * 4 * settings.finetune.micro_batch * settings.finetune.max_length * shape.vocabulary
    if name == "qwen2.5-0.5b":
        assert weights + logits < 16e9
    else:
        assert weights > 80e9
        assert settings.finetune.processes.strategy == "fsdp2"


def test_the_paper_s_numbers_are_in_its_profile():
    """arXiv 2506.09428: 100,000 instructions, 3 responses each, a panel of three, best mean score, 83 % replay, one epoch."""
    settings = loaded("paper")
    assert (settings.reconstruct.samples, settings.respond.k, len(settings.panel)) == (100_000, 3, 3)
    assert settings.models["base"].hub == "meta-llama/Meta-Llama-3-70B-Instruct"
    assert {settings.models[m].hub for m in settings.panel} >= {"Qwen/Qwen2.5-72B-Instruct", None}
    assert (settings.mix.arms["paper"].share, settings.mix.epochs) == (0.83, 1)
    assert settings.consensus.strategy == "mean_score"
    assert settings.finetune.arms["paper"].objective == "ce"


def test_the_profiles_suites_are_tasks_of_lm_eval_with_these_metrics():
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = Path(lm_eval.__file__).parent / "tasks"  # all of them take many seconds to look through
    families = ("ifeval", "arc", "gsm8k", "mmlu_pro", "leaderboard/math", "gpqa/zeroshot")
    manager = TaskManager(include_path=[str(tasks / family) for family in families], include_defaults=False)
    for name in REAL:
        assert "core" in loaded(name).evaluate.suites
        for suite, settings in loaded(name).evaluate.tasks_asked().items():
            assert suite in manager.all_subtasks, f"{suite} is no single task"
            if settings.metric:
                file = Path(manager.task_index[suite].yaml_path)
                assert settings.metric in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_dvc_exp_run_changes_the_value_and_nothing_else(tmp_path, name):
    """DVC writes params.yaml anew: lists in block style, null as nothing, 80 columns. The profiles are written so, too."""
    text = (ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    hydra.apply_overrides(str(tmp_path / "params.yaml"), ["gate.margin=0.02", "mix.arms.domain-only.share=0.1"])
    old = ("  margin: 0.03\n", "domain-only: {share: 0.0}")
    assert all(text.count(one) == 1 for one in old)
    expected = text.replace(old[0], "  margin: 0.02\n").replace(old[1], "domain-only: {share: 0.1}")
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("name", NAMES)
def test_use_makes_any_profile_params_yaml_and_pocket_leads_back(place, capsys, name):
    profile.use("pocket", force=False)
    before = (place / "params.yaml").read_bytes()
    profile.use(name, force=False)
    written = (place / "params.yaml").read_bytes()
    assert (ROOT / "profiles" / f"{name}.yaml").read_bytes().startswith(written)
    assert b"\npocket:\n" not in written  # what only makes the lab's models
    assert (name == "pocket") == ((ROOT / "profiles" / f"{name}.yaml").read_bytes() != written)
    assert Params.load().base == "base"
    assert (place / "data" / "local" / "README.md").is_file() == (name != "pocket")  # a folder that DVC tracks
    assert f"profile '{name}'" in capsys.readouterr().out
    profile.use("pocket", force=False)
    assert (place / "params.yaml").read_bytes() == before


def test_list_marks_the_profile_in_use(place, capsys):
    profile.use("paper", force=False)
    profile.show()
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["paper"]
    assert len(lines) == len(NAMES)


def test_use_refuses_to_lose_edits_unless_forced(place):
    edited = (ROOT / "params.yaml").read_text(encoding="utf-8") + "# mine\n"
    (place / "params.yaml").write_text(edited, encoding="utf-8")
    said = holdfast(place, "profile", "use", "paper")  # no git has it
    assert "--force" in said
    commit(place)
    profile.use("paper", force=False)  # now git has it
    (place / "params.yaml").write_text(edited + "# more\n", encoding="utf-8")
    with pytest.raises(UserError, match="edits that are not committed"):
        profile.use("paper", force=False)
    assert (place / "params.yaml").read_text(encoding="utf-8") == edited + "# more\n"
    profile.use("paper", force=True)
    assert not list(place.glob(".params.yaml.*"))


def test_an_ignored_params_yaml_counts_as_not_committed(place):
    commit(place)
    subprocess.run(["git", "rm", "-q", "--cached", "params.yaml"], cwd=place, check=True)
    (place / ".gitignore").write_text("params.yaml\n", encoding="utf-8")
    (place / "params.yaml").write_text("# mine\n", encoding="utf-8")
    with pytest.raises(UserError, match="not committed"):
        profile.use("paper", force=False)


def test_a_profile_that_does_not_load_changes_nothing(place):
    broken = (place / "profiles" / "paper.yaml").read_text(encoding="utf-8").replace("share: 0.83", "share: 83")
    (place / "profiles" / "broken.yaml").write_text(broken, encoding="utf-8")
    before = (place / "params.yaml").read_bytes()
    said = holdfast(place, "profile", "use", "broken")
    assert "mix.arms.paper.share" in said
    assert (place / "params.yaml").read_bytes() == before
    assert not list(place.glob(".params.yaml.*"))


def test_an_unknown_profile_is_named_with_those_there_are(place, tmp_path_factory):
    assert "there are: llama-3.1-8b, paper, pocket, qwen2.5-0.5b" in holdfast(place, "profile", "use", "lama")
    # they come with Holdfast, so they are known in every folder
    assert "there are: llama-3.1-8b, paper, pocket, qwen2.5-0.5b" in holdfast(
        tmp_path_factory.mktemp("empty"), "profile", "use", "lama"
    )
