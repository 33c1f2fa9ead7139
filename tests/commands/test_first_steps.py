"""A newcomer's commands: init looks at model and data and writes params that run; doctor names what is missing, and how to fix it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dvc.utils import hydra
from fake_server import KEY, Server, says
from helpers import ROOT, holdfast, repro, run, set_params

from holdfast.commands import doctor, init
from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.params.whole import Params
from holdfast.planning import shapes, tailor
from holdfast.reconstruction import amount
from holdfast.training import rate_choice


def rows(n: int, words: int = 3) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                turn("user", f"What is the dose of agent {n}, and why is it so?"),
                turn("assistant", "mg " * words),
            ]
        }
        for n in range(n)
    ]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def jsonl(file: Path, content: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return file


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with git and DVC, beside a folder `mine` for data."""
    assert run(tmp_path, "git", "init", "-q").returncode == 0
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(
    base: object, domain: Path, test: Path | None = None, columns: str | None = None, force: bool = False
) -> Params:
    init.main(str(base), domain, test, None, columns, force)
    return Params.load()


# ---- init


def test_init_writes_params_on_which_the_first_stages_run(tmp_path, tiny):
    folder = tmp_path / "project"
    folder.mkdir()
    data = jsonl(tmp_path / "my.jsonl", rows(40))
    done = run(folder, "holdfast", "init", "--base", str(tiny), "--domain", str(data))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next     git add . && git commit; holdfast doctor; then: dvc repro"
    ran, _ = repro(folder, "acquire", "ingest")
    assert set(ran) - {"code"} == {"acquire", "ingest"}
    manifest = storage.read_json(folder / "models" / "manifest" / "base.json")
    assert manifest["source"] == "models/local/base"  # no path of this machine
    assert len(records.read("domain", folder / "data" / "domain" / "train.parquet")) == 36
    model = folder / "models" / "local" / "base"
    assert model.is_symlink() and model.resolve() == tiny.resolve()  # no weights are doubled

    # a clone elsewhere has no weights, as CI has none: nothing that ran is stale, and what DVC has need not run again
    assert run(folder, "dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store")).returncode == 0
    for command in ("git add -A", "git commit -qm results", "dvc push -q"):
        assert run(folder, *command.split()).returncode == 0
    clone = tmp_path / "elsewhere" / "clone"
    assert run(tmp_path, "git", "clone", "-q", str(folder), str(clone)).returncode == 0
    tracked = run(clone, "git", "ls-files").stdout.splitlines()
    assert "models/sources.json" in tracked and not any(name.startswith("models/local/base") for name in tracked)
    assert not any((clone / name).is_symlink() for name in tracked)
    assert {"acquire", "ingest"} & json.loads(run(clone, "holdfast", "check", "--json").stdout)["stale"].keys() == set()
    assert run(clone, "dvc", "pull", "-q", "ingest").returncode == 0
    assert repro(clone, "acquire", "ingest")[0] == []
    assert run(clone, "git", "status", "--porcelain").stdout == ""
    assert "ln -s FOLDER models/local/base" in run(clone, "holdfast", "run", "acquire").stderr

    # with the same weights nothing changes; with others acquire runs again, though no name and no size has changed
    (clone / "models" / "local" / "base").symlink_to(shutil.copytree(tiny, tmp_path / "copy"))
    assert "acquire" not in json.loads(run(clone, "holdfast", "check", "--json").stdout)["stale"]
    weights = tmp_path / "copy" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    stale = json.loads(run(clone, "holdfast", "check", "--json").stdout)["stale"]
    assert stale["acquire"] == ["model files changed: base/model.safetensors"]
    assert repro(clone, "acquire")[0] == ["acquire"]


def test_init_says_what_it_found(place, tiny, capsys):
    content = rows(6) + rows(2) + [{"messages": [turn("user", "No answer")]}]
    content[0]["messages"].insert(0, turn("system", "Be brief."))
    content[1]["messages"] += [turn("user", "Why is that so?"), turn("assistant", "Because.")]
    test = jsonl(place / "mine" / "t.jsonl", rows(1))
    start(tiny, jsonl(place / "mine" / "d.jsonl", content), test)
    said = capsys.readouterr().out
    assert "9 rows, format messages, 1 with a system turn, 1 multi-turn" in said
    assert "1 cannot be used: no turn of the assistant" in said
    assert "`ingest` will stop: 1 of 9 rows cannot be used, and ingest.max_rejected allows 5%" in said
    assert "language en 100%" in said
    assert "test     1 rows; 2 training rows ask the same, or nearly" in said  # one of them after a system turn
    assert "context 512" in said


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"messages": [turn("user", "q"), turn("assistant", "a")]}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt_completion"),
    ],
)
def test_init_finds_the_format(place, tiny, row, form):
    assert start(tiny, jsonl(place / "mine" / "d.jsonl", [row, row])).ingest.format == form


def test_init_maps_columns(place, tiny):
    data = jsonl(place / "mine" / "d.jsonl", [{"Q": "how much?", "A": "5 mg"}])
    settings = start(tiny, data, columns="prompt=Q,response=A")
    assert settings.ingest.columns is not None
    assert (settings.ingest.format, settings.ingest.columns.prompt) == ("columns", "Q")


def test_lengths_follow_the_base_s_context(place, tiny):
    settings = start(tiny, jsonl(place / "mine" / "d.jsonl", rows(5)))
    rubric = 250  # at least so many tokens has the rubric for this tokenizer
    assert settings.reconstruct.max_tokens + settings.respond.max_tokens + rubric < 512
    assert settings.reconstruct.max_tokens + settings.respond.max_tokens < settings.finetune.max_length <= 512


def test_rows_beyond_the_context_are_rejected_by_a_stated_limit(place, tiny, capsys):
    settings = start(tiny, jsonl(place / "mine" / "d.jsonl", rows(30) + rows(1, words=2000)))
    assert "1 rows, those of" in capsys.readouterr().out
    assert settings.ingest.max_chars < 6100
    assert settings.ingest.max_rejected >= 1 / 31


@pytest.mark.parametrize(
    ("answer", "how"),
    [("5 mg", "exact_match"), ("word " * 100, "likelihood"), ("so many steps " * 20 + "\n#### 5", "answer")],
    ids=["short", "long", "marked"],
)
def test_the_test_split_is_asked_as_its_answers_allow(place, tiny, answer, how):
    content = [{"prompt": f"question {n}", "completion": answer} for n in range(4)]
    assert start(tiny, jsonl(place / "mine" / "d.jsonl", content)).evaluate.domain_test == how


def test_the_domain_decides_how_much_is_replayed_and_the_base_answers_first(place):
    content = [{"prompt": f"question {n}", "completion": "word"} for n in range(1500)]
    settings = start("Qwen/Qwen2.5-0.5B-Instruct", jsonl(place / "mine" / "d.jsonl", content))
    assert settings.reconstruct.samples == "auto"
    assert (settings.consensus.strategy, settings.consensus.finished_only) == ("first", False)
    assert settings.mix.arms["holdfast"].share > 0
    replayed = amount.count_replay_rows(settings.mix, settings.pilot, settings.arms, 1500)
    assert amount.count_instructions(replayed) <= settings.balance.rows
    assert settings.quality.min_rows < amount.LEAST


def test_the_learning_rate_follows_the_base_s_width_and_how_short_the_training_is(place):
    assert rate_choice.usual_rate(576, lora=False) == pytest.approx(1e-4)  # 1.3e-4, one digit
    assert rate_choice.usual_rate(4096, lora=False) == pytest.approx(3e-5)
    assert rate_choice.usual_rate(4096, lora=True) == pytest.approx(3e-4)
    data = jsonl(place / "mine" / "d.jsonl", rows(5))
    assert start("Qwen/Qwen2.5-0.5B-Instruct", data).finetune.learning_rate == pytest.approx(3e-4)  # 3 x 9e-5
    assert start("meta-llama/Llama-3.1-8B-Instruct", data).finetune.learning_rate == pytest.approx(3e-4)  # adapters
    half_a_billion = shapes.Shape(500_000_000, 24, 896, 14, 1, 151936, 32768)
    assert [tailor.choose_rate(half_a_billion, steps) for steps in (99, 100)] == pytest.approx([3e-4, 9e-5])


def test_params_have_a_blank_line_between_sections_and_none_within(place):
    start("Qwen/Qwen2.5-0.5B-Instruct", jsonl(place / "mine" / "d.jsonl", rows(5)))
    lines = (place / "params.yaml").read_text(encoding="utf-8").splitlines()
    for before, line in pairwise(lines):
        assert not (line.startswith("  ") and before == ""), line
        assert line.startswith((" ", "#", "base:")) or not line or not before.startswith("  "), line


def test_a_hub_model_of_a_profile_is_pinned_without_a_network(place):
    settings = start("Qwen/Qwen2.5-0.5B-Instruct", jsonl(place / "mine" / "d.jsonl", rows(5)))
    assert settings.models["base"].revision == "7ae557604adf67be50417f59c2c2f167def9a775"


def test_the_nearest_profile_by_size_is_taken(place):
    data = jsonl(place / "mine" / "d.jsonl", rows(5))
    assert start("meta-llama/Llama-3.1-8B-Instruct", data).finetune.batch_size == 64  # that profile's
    start("meta-llama/Meta-Llama-3-70B-Instruct", data)  # corrects the first, which is unedited
    text = (place / "params.yaml").read_text(encoding="utf-8")
    assert "Llama-3.1-8B" not in text
    assert Params.load().panel == ["base"]  # servers and the API are not presumed


def test_init_overwrites_only_when_forced(place, tiny):
    data = jsonl(place / "mine" / "d.jsonl", rows(5))
    (place / "params.yaml").write_text("# mine\n", encoding="utf-8")
    with pytest.raises(UserError, match="--force"):
        start(tiny, data)
    assert (place / "params.yaml").read_text(encoding="utf-8") == "# mine\n"
    assert start(tiny, data, force=True).base == "base"
    other = jsonl(place / "d.jsonl", rows(7))
    (place / "data/local/d.jsonl").write_text("mine\n", encoding="utf-8")
    with pytest.raises(UserError, match="another file of this name"):
        start(tiny, other)


def test_init_says_what_goes_into_git_and_how_large_data_need_not(place, tiny, capsys, monkeypatch):
    data = jsonl(place / "mine" / "my data.jsonl", rows(30))
    start(tiny, data)
    said = capsys.readouterr().out
    assert (
        "data     data/local/my data.jsonl: 0.0 MB, which `git add .` puts into git" in said and "dvc add" not in said
    )
    monkeypatch.setattr(init, "LARGE", 100)
    (place / "data/local/my data.jsonl").unlink()
    start(tiny, data)
    assert "first: dvc add 'data/local/my data.jsonl'" in capsys.readouterr().out


def test_data_that_dvc_holds_are_up_to_date_in_a_clone_without_them(place, tiny, tmp_path_factory):
    start(tiny, jsonl(place / "mine" / "my.jsonl", rows(30)))
    assert run(place, "dvc", "add", "-q", "data/local/my.jsonl").returncode == 0
    assert "ingest" in repro(place, "ingest")[0]
    for command in ("git add -A", "git commit -qm results"):
        assert run(place, *command.split()).returncode == 0
    clone = tmp_path_factory.mktemp("clone") / "clone"
    assert run(place, "git", "clone", "-q", str(place), str(clone)).returncode == 0
    assert not (clone / "data/local/my.jsonl").exists()
    assert "ingest" not in json.loads(run(clone, "holdfast", "check", "--json").stdout)["stale"]


def test_another_init_replaces_the_data_of_the_first_but_not_what_was_edited(place, tiny, capsys):
    first, second = jsonl(place / "mine" / "one.jsonl", rows(5)), jsonl(place / "mine" / "two.jsonl", rows(6))
    start(tiny, first)
    start(tiny, second)
    assert "removed  data/local/one.jsonl: of an earlier init" in capsys.readouterr().out
    assert not (place / "data/local/one.jsonl").exists() and (place / "data/local/two.jsonl").is_file()
    jsonl(second, rows(7))  # corrected: the same name, and the copy is as init made it
    start(tiny, second)
    assert (place / "data/local/two.jsonl").read_bytes() == second.read_bytes()
    (place / "data/local/two.jsonl").write_text("mine\n", encoding="utf-8")
    start(tiny, first)
    assert (place / "data/local/two.jsonl").read_text(encoding="utf-8") == "mine\n"
    own = jsonl(place / "data/local/own.jsonl", rows(8))  # where it is: no copy of init's
    start(tiny, own)
    assert not (place / "data/local/one.jsonl").exists()
    start(tiny, first)
    assert own.is_file()


def test_another_base_of_the_same_name_replaces_the_link_and_no_folder(place, tiny):
    data = jsonl(place / "mine" / "d.jsonl", rows(5))
    start(tiny, data)
    other = shutil.copytree(tiny, place / "mine" / "base")
    start(other, data)
    link = place / "models/local/base"
    assert link.resolve() == other and not link.readlink().is_absolute()  # within the project
    link.unlink()
    shutil.copytree(tiny, link)
    with pytest.raises(UserError, match="another model of this name"):
        start(other, data, force=True)
    assert start(link, data).models["base"].path == "base" and not link.is_symlink()


@pytest.mark.parametrize(
    "name", ["my.jsonl", "a name so long that no line of eighty columns has room for it, not at all.jsonl"]
)
def test_what_init_writes_keeps_its_shape_in_dvc_exp_run(place, tiny, name):
    content = [{"Q": f"question {n}", "A": "word " * 100} for n in range(30)]
    start(
        tiny,
        jsonl(place / "mine" / name, content),
        jsonl(place / "mine" / f"t {name}", content[:3]),
        "prompt=Q,response=A",
    )
    text = (place / "params.yaml").read_text(encoding="utf-8")
    hydra.apply_overrides("params.yaml", ["gate.margin=0.02"])
    changed = (place / "params.yaml").read_text(encoding="utf-8")
    assert changed == text.replace("  margin: 0.03\n", "  margin: 0.02\n") != text


BAD: dict[str, tuple[dict[str, str], str]] = {
    "no such base": ({"base": "nowhere"}, "give a model's folder, or OWNER/NAME"),
    "folder without weights": ({"base": "mine"}, "has no config.json"),
    "hub model that nobody knows": ({"base": "some/model"}, "give --revision"),
    "no such data": ({"domain": "mine/nothing.jsonl"}, "give the path of your data"),
    "unknown kind of file": ({"domain": "mine/d.txt"}, "unknown kind of file"),
    "unknown format": ({"domain": "mine/odd.jsonl"}, "--columns prompt=FIELD,response=FIELD"),
    "empty file": ({"domain": "mine/empty.jsonl"}, "no rows"),
    "mapping that is none": ({"columns": "Q"}, "cannot read the mapping"),
    "mapping of a field that is not there": ({"columns": "prompt=nope,response=A"}, "'nope'"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_for_init_is_one_to_three_lines_and_writes_nothing(place, tiny, mistake):
    jsonl(place / "mine" / "good.jsonl", rows(5))
    jsonl(place / "mine" / "odd.jsonl", [{"Q": "q", "A": "a"}])
    (place / "mine" / "empty.jsonl").touch()
    (place / "mine" / "d.txt").touch()
    changes, expected = BAD[mistake]
    given = {"base": str(tiny), "domain": "mine/good.jsonl", **changes}
    if mistake == "mapping of a field that is not there":
        given["domain"] = "mine/odd.jsonl"
    with pytest.raises(UserError) as caught:
        init.main(given["base"], Path(given["domain"]), None, None, given.get("columns"), False)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert "params.yaml" not in str(caught.value)  # it is not there yet
    assert not (place / "params.yaml").exists()
    assert not (place / "data").exists()
    assert not (place / "models").exists()


def test_the_command_line_says_it_in_three_lines(place):
    assert "OWNER/NAME" in holdfast(place, "init", "--base", "nowhere", "--domain", "x.jsonl")


# ---- doctor


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """(exit code, lines) of doctor; every line but the last bears a mark."""
    code = doctor.main()
    lines = capsys.readouterr().out.splitlines()
    assert all(line[:3] in ("ok ", "-- ", "?? ", "!! ") for line in lines[:-1]), lines
    assert (code == 1) == any(line.startswith("!!") for line in lines)
    return code, lines


def needed(lines: list[str]) -> str:
    return "\n".join(line for line in lines if line.startswith("!!"))


@pytest.fixture
def lab(project: Path) -> Path:
    """A working directory in which the pocket lab has all that it needs."""
    for name in ("models/pocket", "data/pocket"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).symlink_to(ROOT / name)
    for name in ("data/prompts", ".dvc"):
        (project / name).mkdir(parents=True)
    (project / "profiles").symlink_to(ROOT / "profiles")
    (project / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    return project


@pytest.fixture
def server(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    logprobs = {"content": [{"token": "5", "logprob": -0.1, "top_logprobs": [{"token": "5", "logprob": -0.1}]}]}
    found = Server(says("5", logprobs=logprobs))
    member = {"endpoint": found.url, "model": "tiny"}
    set_params(lab, models__far=member, panel=["base", "far"])
    yield found
    found.shutdown()
    found.server_close()


def test_the_pocket_lab_lacks_nothing(lab, capsys):
    code, lines = examined(capsys)
    assert (code, needed(lines)) == (0, "")
    assert lines[-1] == "all that params.yaml needs is here"
    assert any(line.startswith("-- dvc remote: none") for line in lines)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ingest__train": {"hub": "a/b", "revision": "0" * 40}}, "?? ingest.train: a/b is downloaded"),
    ],
)
def test_doctor_does_not_say_that_all_is_here_where_it_could_not_look(lab, capsys, changes, expected):
    set_params(lab, **changes)
    code, lines = examined(capsys)
    assert code == 0 and any(line.startswith(expected) for line in lines), lines
    assert re.fullmatch(r"nothing was seen to be missing; 1 of \d+ lines could not be checked from here", lines[-1])
    doctor.main(as_json=True)
    assert "unchecked" in {line["state"] for line in json.loads(capsys.readouterr().out)}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "weights cut short": ("model.safetensors", cut, "model.safetensors: not a readable safetensors file"),
    "no weights but a page": (
        "model.safetensors",
        lambda f: f.write_text("<html>404</html>"),
        "not a readable safetensors",
    ),
    "a pointer of Git LFS": (
        "model.safetensors",
        lambda f: f.write_text("version https://git-lfs"),
        "is a pointer of Git LFS",
    ),
    "garbage for a tokenizer": ("tokenizer.json", lambda f: f.write_text("{"), "the tokenizer cannot be loaded"),
    "no chat template": ("chat_template.jinja", Path.unlink, "has no chat template"),
    "no config": ("config.json", Path.unlink, "has no config.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_doctor_opens_the_files_of_a_model(lab, capsys, damage):
    name, break_file, expected = DAMAGE[damage]
    (lab / "models" / "pocket").unlink()
    shutil.copytree(ROOT / "models" / "pocket", lab / "models" / "pocket")
    break_file(lab / "models" / "pocket" / "lexicon" / name)
    code, lines = examined(capsys)
    assert code == 1
    assert [line for line in lines if line.startswith("!! model lexicon") and expected in line], lines


def test_an_embedder_outside_of_the_panel_is_looked_at(lab, capsys):
    set_params(lab, models__embeds={"path": "nothing"}, embedder="embeds")
    code, lines = examined(capsys)
    assert code == 1 and "ln -s FOLDER models/pocket/nothing" in needed(lines)


def test_doctor_says_which_arm_would_replay_too_few_rows_to_hold_anything(lab):
    """A quarter of the rows beside 60 in two epochs are 40; 100 beside 120 are 46 %."""
    rows = [{"prompt": f"What is drug {n} for?", "response": "ache"} for n in range(60)]
    (lab / "few").mkdir()
    (lab / "few" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    ours = {"folder": "few", "train": {"path": "rows.jsonl"}, "test": {"path": "rows.jsonl"}}
    arms = {"domain-only": {"share": 0.0}, "few": {"share": 0.25}, "enough": {"share": 0.46}}
    set_params(
        lab, **{f"ingest__{key}": value for key, value in ours.items()}, arms=list(arms), mix__epochs=2, retrain={}
    )
    set_params(lab, mix__arms=arms, finetune__arms={name: {"objective": "ce"} for name in arms})
    [(mark, text)] = doctor.check_replay(Params.load())
    assert mark == "--" and text.startswith("arm few would replay 40 rows beside 60 of the domain")
    assert text.endswith("raise mix.arms.few.share to 0.46 or more")

    set_params(lab, finetune__learning_rate="auto")
    assert list(doctor.check_pilots(Params.load())) == []
    (lab / "few" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:49])), encoding="utf-8")
    (mark, text), *others = doctor.check_pilots(Params.load())
    assert mark == "!!" and len(others) == 2
    assert text == (
        "arm domain-only leaves a choice to its pilot, which needs 50 rows of the domain; there are 49: "
        "set finetune.learning_rate to a number"
    )


def test_in_an_empty_folder_doctor_and_plan_name_init(tmp_path):
    assert "`holdfast init`" in run(tmp_path, "holdfast", "doctor").stdout
    assert "`holdfast init`" in holdfast(tmp_path, "plan")


def test_doctor_says_what_an_endpoint_offers(server, capsys):
    code, lines = examined(capsys)
    assert code == 0, lines
    assert any("answers as 'tiny-1': chat, 20 log-probabilities, context 512" in line for line in lines), lines


def test_a_base_behind_a_server_is_asked_by_raw_completions(server, lab, capsys):
    set_params(lab, models__base={"path": "base", "endpoint": server.url, "model": "tiny"}, panel=["base"])
    server.speak = says("5")
    code, lines = examined(capsys)
    assert code == 0, lines
    assert any("raw completions, no log-probabilities (scores come from the text)" in line for line in lines)
    server.raw = False
    code, lines = examined(capsys)
    assert code == 1
    assert "no raw completions" in needed(lines)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("gone", "no server answers"),
        ("other model", "'model' must be what it offers: big"),
        ("key", "name the variable that holds the key in 'api_key_env'"),
        ("broken", "the server answers 503"),
    ],
)
def test_a_server_s_fault_is_one_line_with_a_remedy(server, lab, capsys, fault, expected):
    if fault == "gone":
        server.shutdown()
        server.server_close()
    server.models = ["big"] if fault == "other model" else server.models
    server.key = KEY if fault == "key" else None
    if fault == "broken":
        server.always = lambda handler: handler.give({"error": {"message": "busy"}}, 503)
    code, lines = examined(capsys)
    assert code == 1
    assert expected in needed(lines)
    assert len(needed(lines).splitlines()) == 1


def test_a_missing_key_is_named_and_no_key_is_shown(server, lab, capsys, monkeypatch):
    set_params(lab, models__far={"endpoint": server.url, "model": "tiny", "api_key_env": "FAR_KEY"})
    code, lines = examined(capsys)
    assert code == 1 and "FAR_KEY holds no key" in needed(lines)
    monkeypatch.setenv("FAR_KEY", KEY)
    server.key = "sk-another"
    code, lines = examined(capsys)
    assert code == 1 and "refuses the key" in needed(lines)
    assert KEY not in "\n".join(lines)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"models__base": {"path": "nothing"}}, "put or link the model there"),
        ({"models__base": {"hub": "a/b", "revision": "0" * 40}}, "HF_HUB_OFFLINE is set"),
        ({"ingest__folder": "data/nothing"}, "ingest.folder: data/nothing is not there"),
        ({"ingest__train": {"path": "nothing.jsonl"}}, "ingest.train"),
        ({"judge__rubric": "nothing.txt"}, "judge.rubric"),
        ({"balance__rows": "many"}, "balance.rows"),
    ],
    ids=["model folder", "hub model offline", "data folder", "data file", "rubric", "params"],
)
def test_what_params_need_and_is_missing_is_one_line_and_exit_code_1(lab, capsys, changes, expected):
    set_params(lab, **changes)
    code, lines = examined(capsys)
    assert code == 1
    assert expected in needed(lines)


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_an_engine_that_is_not_installed_is_told(lab, capsys, monkeypatch, engine):
    monkeypatch.setitem(sys.modules, engine, None)
    set_params(lab, models__base={"path": "base", engine: {}})
    code, lines = examined(capsys)
    assert code == 1
    assert "is not installed" in needed(lines)
    assert f"remove '{engine}'" in needed(lines)


def test_a_base_that_cannot_be_trained_in_this_memory_is_told_before_it_is_downloaded(lab, capsys):
    set_params(lab, models__base={"hub": "meta-llama/Meta-Llama-3-70B-Instruct", "revision": "7" * 40})
    code, lines = examined(capsys)
    assert code == 1
    assert "training 70.6 B parameters holds" in needed(lines)


def test_remotes_are_looked_at(lab, capsys):
    (lab / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    remote = far\n['remote \"far\"']\n    url = s3://bucket/path\n",
        encoding="utf-8",
    )
    code, lines = examined(capsys)
    assert code == 1 and "pip install dvc-s3" in needed(lines)
    (lab / "store").mkdir()
    text = f"[core]\n    no_scm = true\n    remote = near\n['remote \"near\"']\n    url = {lab / 'store'}\n"
    (lab / ".dvc" / "config").write_text(text, encoding="utf-8")
    code, lines = examined(capsys)
    assert code == 0 and any(line.startswith("ok dvc remote near") for line in lines)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a: [\n", b"models: 3\n"])
def test_no_params_file_however_broken_gives_a_traceback(lab, capsys, content):
    (lab / "params.yaml").write_bytes(content)
    code, lines = examined(capsys)
    assert code == 1 and "params.yaml" in needed(lines)


def test_outside_of_a_project_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, lines = examined(capsys)
    assert code == 1
    assert "no such file" in needed(lines) and "no DVC project" in needed(lines)


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(lab, capsys):
    (lab / "models" / "pocket").unlink()
    shutil.copytree(ROOT / "models" / "pocket", lab / "models" / "pocket")
    (lab / "models" / "pocket" / "base" / "config.json").write_text('{"model_type": 7}', encoding="utf-8")
    code, lines = examined(capsys)
    assert code == 1
    assert "memory: cannot be checked" in needed(lines)
    assert "ok model lexicon: models/pocket/lexicon" in lines
