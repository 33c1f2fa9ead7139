"""CI for users: pinned workflows without rights they do not need, a gate that goes red and green, one comment, kept harmless."""

from __future__ import annotations

import html
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest
import yaml
from helpers import set_params
from report_run import build, render

from holdfast.commands import comment as command

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / ".github/actions/holdfast-gate/action.yml"
GITLAB_JOBS = ROOT / ".ci/gitlab.yml"
SCRIPTS = [ROOT / ".ci" / name for name in ("run", "gate.sh")]
PINNED = {  # as runners logged them when they resolved the version's tag; the cache as widely pinned
    "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1  # v7.0.1",
    "actions/cache@cdf6c1fa76f9f475f3d7449005a359c84ca0f306  # v5.0.3",
    "actions/setup-python@a309ff8b426b58ec0e2a45f0f869d46889d02405  # v6.2.0",
    "actions/upload-artifact@043fb46d1a93c77aae656e7c1c64a875d1fc6a0a  # v7.0.1",
}


def workflow(name: str) -> dict[str, Any]:
    return yaml.load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"), yaml.BaseLoader)


def test_actions_are_pinned_by_commit() -> None:
    texts = [file.read_text(encoding="utf-8") for file in (*WORKFLOWS, ACTION)]
    used = {line for text in texts for line in re.findall(r"^ +(?:- )?uses:\s*(.+)", text, re.MULTILINE)}
    own = {line for line in used if line.startswith("./")}
    assert used - own == PINNED
    assert {line.partition("  #")[0] for line in own} == {f"./{ACTION.parent.relative_to(ROOT)}"}


def test_the_half_that_runs_foreign_code_has_no_rights_and_the_half_with_rights_runs_none() -> None:
    gate, comment = workflow("gate.yml"), workflow("comment.yml")
    assert set(gate["on"]) == {"pull_request", "schedule", "workflow_dispatch"}, "never pull_request_target"
    assert gate["permissions"] == {"contents": "read"}
    assert re.findall(r"secrets\.(\w+)", json.dumps(gate)) == ["HOLDFAST_DVC_CONFIG"], "of the remote, where it is set"
    assert "permissions" not in gate["jobs"]["gate"]
    assert comment["permissions"] == {}
    assert comment["jobs"]["comment"]["permissions"] == {
        "actions": "read",
        "contents": "read",
        "pull-requests": "write",
    }
    assert comment["on"]["workflow_run"]["workflows"] == [gate["name"]]
    checkout, run = comment["jobs"]["comment"]["steps"]
    assert "ref" not in checkout["with"] and "repository" not in checkout["with"]
    assert run["run"] == "python3 .ci/comment.py github"


def read_action() -> dict[str, Any]:
    return yaml.load(ACTION.read_text(encoding="utf-8"), yaml.BaseLoader)


def test_the_workflow_gives_the_action_its_inputs_and_the_action_uses_them_all() -> None:
    action = read_action()
    step = next(one for one in workflow("gate.yml")["jobs"]["gate"]["steps"] if one["uses"].startswith("./"))
    assert step["with"].keys() == action["inputs"].keys()
    used = set(re.findall(r"\$\{\{ inputs\.([\w-]+) \}\}", ACTION.read_text(encoding="utf-8")))
    assert used == action["inputs"].keys()
    assert not re.search(r"\$\{\{ *(vars|secrets)\.", ACTION.read_text(encoding="utf-8")), "an action has neither"
    assert all(step["shell"] == "bash" for step in action["runs"]["steps"] if "run" in step), "it must say so"


@pytest.mark.parametrize("file", [*WORKFLOWS, ACTION], ids=lambda file: file.name)
def test_nothing_from_an_event_is_pasted_into_a_shell(file: Path) -> None:
    content = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)
    for job in content["jobs"].values() if "jobs" in content else [content["runs"]]:
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] == "false"


def test_ci_files_call_scripts_that_are_there() -> None:
    files = [*WORKFLOWS, ACTION, GITLAB_JOBS, ROOT / ".gitlab-ci.example.yml"]
    texts = [file.read_text(encoding="utf-8") for file in files]
    called = {name for text in texts for name in re.findall(r"\.ci/\w+(?:\.\w+)?", text)}
    assert called == {".ci/run", ".ci/gate.sh", ".ci/comment.py", ".ci/gitlab.yml"}
    assert all((ROOT / name).is_file() for name in called)
    for script in SCRIPTS:
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def fill_in(text: str, inputs: dict[str, Any]) -> str:
    """The jobs as GitLab sees them: `$[[ inputs.NAME ]]` replaced."""
    return re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda match: str(inputs[match[1]]), text)


def test_the_jobs_of_gitlab_are_whole_with_their_defaults_and_with_inputs() -> None:
    head, _, jobs = GITLAB_JOBS.read_text(encoding="utf-8").partition("\n---\n")
    inputs = yaml.safe_load(head)["spec"]["inputs"]
    assert set(re.findall(r"\$\[\[ inputs\.(\w+) \]\]", jobs)) == inputs.keys()
    content = yaml.safe_load(fill_in(jobs, {name: one["default"] for name, one in inputs.items()}))
    assert content["gate"]["stage"] == content["comment"]["stage"] == "test", "a stage that every pipeline has"
    assert content["gate"]["tags"] == [] and content[".holdfast"]["image"] == "python:3.11"
    assert content["comment"]["needs"] == [{"job": "gate", "artifacts": True}]
    other = yaml.safe_load(fill_in(jobs, {"stage": "check", "image": "own:1", "tags": '["gpu"]', "package": "x.whl"}))
    assert other["gate"]["tags"] == ["gpu"] and other["comment"]["stage"] == "check"
    install = other[".holdfast"]["before_script"][0]
    for package, chosen in (("", "x.whl"), ("y", "y")):
        done = subprocess.run(
            ["bash", "-c", install.replace("python -m pip", "echo")],
            env={"PATH": os.environ["PATH"], "HOLDFAST_PACKAGE": package},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"install {chosen}\n"


def test_this_repository_includes_the_jobs_of_gitlab() -> None:
    own = yaml.safe_load((ROOT / ".gitlab-ci.example.yml").read_text(encoding="utf-8"))
    assert own["include"] == [{"local": f"/{GITLAB_JOBS.relative_to(ROOT)}"}]
    assert own["test"]["stage"] == "test" and own["test"]["extends"] == ".holdfast"
    assert "make .venv/.installed" in own[".holdfast"]["before_script"]


# --- the gate on a repository with pull requests


def run(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = helpers.environment() | {"HOLDFAST_PAGES": "https://ci.example/runs/7"}
    for name in (
        "GITHUB_STEP_SUMMARY",
        "HOLDFAST_REPRO",
        "HOLDFAST_AGAINST",
        "HOLDFAST_TRUSTED_GATE",
        "HOLDFAST_ALLOW_GATE_CHANGE",
    ):
        environment.pop(name, None)
    return subprocess.run(command, cwd=folder, env=environment | settings, capture_output=True, text=True, check=False)


def ran(folder: Path, *command: str) -> str:
    done = run(folder, *command)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def gate(folder: Path, **settings: str) -> tuple[int, str]:
    """Exit code of the action's step that runs the gate, and the comment that it wrote. `settings`: as docs/ci.md names them."""
    step = next(one for one in read_action()["runs"]["steps"] if "gate.sh" in one.get("run", ""))
    inputs = {"target": "main"} | {
        name.removeprefix("HOLDFAST_").lower().replace("_", "-"): value for name, value in settings.items()
    }
    assert inputs.keys() <= read_action()["inputs"].keys()
    environment = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: inputs.get(match[1], ""), value)
        for name, value in step["env"].items()
    }
    environment["HOLDFAST_PAGES"] = "https://ci.example/runs/7"
    out = folder.parent / "gate"
    shutil.rmtree(out, ignore_errors=True)
    shell = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"])  # as runners call it
    done = run(folder, *shell, RUNNER_TEMP=str(folder.parent), **environment)
    return done.returncode, (out / "comment.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose pipeline begins at the evaluations: gate and report are the real stages, run and locked by DVC."""
    folder = tmp_path_factory.mktemp("pull") / "repository"
    build(folder, n=60)
    for name in ("stages", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    evaluate = yaml.safe_load((folder / "reports/eval/base/settings.json").read_text(encoding="utf-8"))["suites"]
    suites = {name: {"role": suite["role"], "chance": suite["chance"]} for name, suite in evaluate.items()}
    pipeline["stages"] = {name: pipeline["stages"][name] for name in ("code", "gate", "report")}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    (folder / ".gitignore").write_text("__pycache__/\n")
    set_params(folder, gate__resamples=500, gate__margin=0.05, gate__suite_margin=0.3, evaluate__suites=suites)
    ran(folder, "git", "init", "-q", "-b", "main")
    ran(folder, "dvc", "init", "-q")
    ran(folder, "dvc", "repro")
    ran(folder, "git", "add", "-A")
    ran(folder, "git", "commit", "-qm", "a model that held fast")
    return folder


def test_a_branch_that_forgets_goes_red_and_one_that_does_not_goes_green(repository: Path) -> None:
    ran(repository, "git", "checkout", "-qb", "harmless", "main")
    set_params(repository, report__title="Another title", gate__margin=0.04)
    ran(repository, "dvc", "repro")
    ran(repository, "git", "commit", "-qam", "another title and margin")
    code, comment = gate(repository, HOLDFAST_AGAINST="1")  # as good as the same arm on main, too
    assert code == 0
    assert comment.startswith(
        "**The yardstick moved** against main\n\n- margin tightened from 5.0 to 4.0 points\n\n## PASS:"
    )
    assert "| gate.margin | 0.05 | 0.04 | −0.01 |" in comment
    assert "| report.title | Holdfast on the pocket lab | Another title |" in comment
    assert "No change in metrics." in comment
    assert "[Full report and pages: files of this run](https://ci.example/runs/7)\n\nCommit " in comment
    assert "checked against the thresholds, dvc.lock and its own numbers, not recomputed" in comment
    assert len(comment) < 60_000
    assert 'errors="0"' in (repository.parent / "gate/junit.xml").read_text(encoding="utf-8")
    assert {p.name for p in (repository.parent / "gate/pages/reports").iterdir()} >= {"index.html", "cards", "drift"}

    # a stale lock: parameters that nobody ran
    set_params(repository, gate__margin=0.5)
    ran(repository, "git", "commit", "-qam", "a margin that forgives everything, and no run")
    code, comment = gate(repository)
    assert code == 1
    assert comment.lstrip().startswith("## STALE: ")
    assert "## PASS:" in comment, "the earlier figures follow, after the warning"
    assert "**margin loosened from 5.0 to 50.0 points**" in comment
    code, comment = gate(repository, HOLDFAST_REPRO="1")
    assert code == 0, "where CI may run stages, it runs what changed"
    assert comment.startswith("## GATE LOOSENED against main\n\n- **margin loosened from 5.0 to 50.0 points**\n")
    assert gate(repository, HOLDFAST_AGAINST="1")[0] == 1, "a gate that is looser fails"
    assert gate(repository, HOLDFAST_AGAINST="1", HOLDFAST_ALLOW_GATE_CHANGE="1")[0] == 0
    code, comment = gate(repository, HOLDFAST_TRUSTED_GATE="1")
    assert code == 0, "the target's gate settings decide, and pass it too"
    assert comment.lstrip().startswith("## PASS by the gate of main; ")

    ran(repository, "git", "checkout", "-qfb", "forgets", "main")
    items = "reports/eval/{}/items.parquet"
    shutil.copyfile(repository / items.format("domain-only"), repository / items.format("holdfast"))
    ran(repository, "dvc", "repro")
    ran(repository, "git", "add", "-A")
    ran(repository, "git", "commit", "-qm", "a model trained without replay")
    code, comment = gate(repository)
    assert code == 1
    assert comment.startswith("## FAIL: holdfast lost ") and " (limit 5.0); " in comment
    assert re.search(r"\| holdfast\.general \| 0\.\d+ \| 0\.\d+ \| −0\.\d+ \|", comment)
    assert "No change in parameters." in comment


def test_a_remote_whose_credentials_come_from_a_secret_is_read_and_forgotten(repository: Path, tmp_path: Path) -> None:
    ran(repository, "git", "checkout", "-qfB", "with-a-remote", "main")
    ran(repository, "dvc", "repro")
    config, name = repository / ".dvc/config.local", "a-name-like-a-password"
    config.write_text(f"[core]\n    remote = {name}\n['remote \"{name}\"']\n    url = {tmp_path / 'remote'}\n")
    ran(repository, "dvc", "push")
    secret = config.read_text()
    config.unlink()
    (tmp_path / "variable").write_text(secret)
    for value in (secret, str(tmp_path / "variable")):  # as GitHub has secrets, and GitLab variables that are files
        code, comment = gate(repository, HOLDFAST_DVC_CONFIG=value)
        assert code == 0, comment
        assert "The verdict was recomputed from the items" in comment
        assert name not in comment and not config.exists()


@pytest.mark.parametrize("link", [".dvc/config.local", ".dvc"])
def test_credentials_are_written_through_no_link(link: str, tmp_path: Path) -> None:
    """A branch could lead them into a folder that is uploaded."""
    project, target = tmp_path / "project", tmp_path / "project/reports/cards"
    (project / ".ci").mkdir(parents=True)
    shutil.copyfile(ROOT / ".ci/gate.sh", project / ".ci/gate.sh")
    ran(project, "git", "init", "-q")
    ran(project, "dvc", "init", "-q")
    target.parent.mkdir()
    if link == ".dvc":
        (project / link).rename(target)
    (project / link).symlink_to(target)
    done = run(project, "bash", ".ci/gate.sh", "main", str(tmp_path / "out"), HOLDFAST_DVC_CONFIG="[core]\n")
    assert done.returncode == 3 and "no credentials are written there" in done.stderr, done.stderr
    assert not target.is_file() and not (target / "config.local").exists()


FORGIVING = {"margin": 0.9, "suite_margin": 0.9, "self_margin": 0.9, "min_domain_gain": -0.9}


def test_a_branch_that_edits_what_decides_is_decided_by_the_target(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository holds the library, and the branch makes every arm pass."""
    plain = helpers.environment()
    plain["PATH"] = os.pathsep.join([str(helpers.BIN), os.environ["PATH"]])  # commands that load the library anew
    ran(repository, "git", "checkout", "-qfb", "holds-the-library", "main")
    shutil.copytree(ROOT / "holdfast", repository / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(helpers, "environment", lambda: plain | {"PYTHONPATH": str(repository)})
    ran(repository, "dvc", "repro")
    ran(repository, "git", "add", "-A")
    ran(repository, "git", "commit", "-qm", "the library")
    ran(repository, "git", "branch", "-f", "library")

    ran(repository, "git", "checkout", "-qb", "edits-its-judge")
    items = "reports/eval/{}/items.parquet"
    shutil.copyfile(repository / items.format("domain-only"), repository / items.format("holdfast"))
    decision = repository / "holdfast/verdict/decision.py"
    text = decision.read_text(encoding="utf-8")
    edited = text.replace(
        "    shares = confidences(", f"    params = params.model_copy(update={FORGIVING})\n    shares = confidences("
    )
    assert edited != text
    decision.write_text(edited, encoding="utf-8")
    script = repository / ".ci/gate.sh"
    script.write_text(script.read_text(encoding="utf-8").replace('exit "$code"', "exit 0"), encoding="utf-8")
    ran(repository, "dvc", "repro")
    ran(repository, "git", "add", "-A")
    ran(repository, "git", "commit", "-qm", "every arm passes")
    code, comment = gate(repository, target="library")
    assert code == 0 and comment.startswith("## GATE LOOSENED"), "the branch's own code"
    code, comment = gate(repository, target="library", HOLDFAST_TRUSTED_GATE="1")
    assert code == 1
    assert comment.lstrip().startswith("## FAIL by the gate of library; ")
    assert "decided anew from the items" in comment
    ran(repository, "git", "checkout", "-qf", "forgets")


def test_dvc_s_own_diffs_say_what_changed(tmp_path: Path) -> None:
    """With this repository's dvc.yaml: `dvc metrics diff`, `dvc params diff` and `dvc plots diff` between two commits."""
    build(tmp_path, n=12)
    render(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "reports/metrics.json").write_text('{"holdfast": {"lost": 10, "retention": 0.99}}')
    ran(tmp_path, "git", "init", "-q")
    ran(tmp_path, "dvc", "init", "-q")
    for message in ("before", "after"):
        ran(tmp_path, "git", "add", "-A")
        ran(tmp_path, "git", "commit", "-qm", message)
        if message == "before":
            set_params(tmp_path, gate__margin=0.05)
            (tmp_path / "reports/metrics.json").write_text('{"holdfast": {"lost": 25, "retention": 0.98}}')
            table = tmp_path / "reports/plots/suites.csv"
            table.write_text(
                table.read_text().replace("holdfast: facts,", "holdfast: facts,-0.5,9,9\nholdfast: other,")
            )
    revisions = ("HEAD~1", "HEAD")
    metrics = json.loads(ran(tmp_path, "dvc", "metrics", "diff", "--json", *revisions))
    changed = metrics["reports/metrics.json"]
    assert changed["holdfast.lost"] == {"old": 10, "new": 25, "diff": 15} and set(changed) == {
        "holdfast.lost",
        "holdfast.retention",
    }
    params = json.loads(ran(tmp_path, "dvc", "params", "diff", "--json", *revisions))
    margin = params["params.yaml"].pop("gate.margin")
    assert (margin["old"], margin["new"]) == (0.03, 0.05) and params == {"params.yaml": {}}
    plots = json.loads(ran(tmp_path, "dvc", "plots", "diff", "--json", *revisions))["data"]
    drawn = {Path(name).relative_to("reports/plots").as_posix() for name in plots}
    assert drawn >= {"suites.csv", "loss/domain-only.csv", "loss/holdfast.csv"}
    assert all(set(plot["revisions"]) == set(revisions) for several in plots.values() for plot in several)


def test_without_the_target_branch_the_gate_says_what_to_fetch(repository: Path) -> None:
    done = run(repository, "holdfast", "comment", "--against", "origin/nowhere")
    assert done.returncode == 3
    assert "fetch-depth: 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_of_another_version_still_gets_what_changed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    (tmp_path / "report.md").write_text("## PASS: as it was\n")
    text = command.main(tmp_path / "report.md", Path("params.yaml"), Path("reports/metrics.json"), "main", "https://x")
    assert text.startswith("## PASS: as it was\n")
    assert "**Changed against main**" in text


# --- the comment


class Forge(http.server.BaseHTTPRequestHandler):
    """As much of GitHub's and GitLab's API as posting one comment needs."""

    comments: list[dict[str, Any]]
    artefact = b""
    seen: list[tuple[str, str, str | None]]

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path, _, query = self.path.partition("?")
        token = self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN")
        self.seen.append((self.command, path, token))
        wanted = urllib.parse.parse_qs(query)
        found: Any = None
        if path == "/repos/o/r/pulls":
            assert wanted["head"] == ["stranger:odd&branch=$(x)"], wanted
            found = [{"number": 3, "head": {"sha": "old"}}, {"number": 4, "head": {"sha": "new"}}]
        elif path == "/repos/o/r/actions/runs/7/artifacts":
            found = {"artifacts": [{"name": "holdfast-comment", "expired": False, "id": 9}]}
        elif path == "/repos/o/r/actions/artifacts/9/zip":
            return self.answer(302, b"", Location=f"http://{self.headers['Host']}/store")
        elif path == "/store":
            return self.answer(200, self.artefact)
        elif path == "/user":
            found = {"id": 1}
        elif path in ("/repos/o/r/issues/4/comments", "/projects/5/merge_requests/4/notes"):
            if self.command == "GET":
                found = self.comments
            else:
                self.comments.append(entry(len(self.comments), body["body"]))
                found = self.comments[-1]
        elif match := re.fullmatch(r"/(?:repos/o/r/issues/comments|projects/5/merge_requests/4/notes)/(\d+)", path):
            self.comments[int(match[1])]["body"] = body["body"]
            found = {}
        self.answer(404 if found is None else 200, json.dumps(found).encode())

    do_GET = do_POST = do_PATCH = do_PUT = handle_any

    def log_message(self, *_: Any) -> None:
        pass


def entry(number: int, body: str, login: str = "github-actions[bot]") -> dict[str, Any]:
    return {"id": number, "body": body, "user": {"login": login}, "author": {"id": 1 if "bot" in login else 2}}


@pytest.fixture
def forge() -> Iterator[tuple[type[Forge], str]]:
    handler = type("Fresh", (Forge,), {"seen": [], "comments": [entry(0, "<!-- holdfast -->\nmine?", "stranger")]})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def packed(text: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("comment.md", text)
    return data.getvalue()


def post(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "GITHUB_API_URL": url,
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_TOKEN": "key",
        "RUN_ID": "7",
        "HEAD_OWNER": "stranger",
        "CONCLUSION": "failure",
        "HEAD_BRANCH": "odd&branch=$(x)",
        "HEAD_SHA": "new",
        "CI_API_V4_URL": url,
        "CI_PROJECT_ID": "5",
        "CI_MERGE_REQUEST_IID": "4",
        "HOLDFAST_TOKEN": "key",
        "PATH": os.environ["PATH"],
    } | environment
    script = str(ROOT / ".ci" / "comment.py")
    return subprocess.run(
        [sys.executable, script, *arguments], env=settings, capture_output=True, text=True, check=False
    )


HOSTILE = (
    "## PASS\n\n@org/team @me #12 ![x](https://evil.example/x.png) <img src=x> <script>x</script> <!-- hidden -->\n"
    "<details open><summary>kept</summary>\n\n`a < b`\n\n</details>\n"
)


def test_one_comment_is_written_and_then_updated(forge: tuple[type[Forge], str]) -> None:
    handler, url = forge
    handler.artefact = packed(HOSTILE)
    assert "commented on pull request 4" in post(url, "github").stdout
    handler.artefact = packed("## FAIL\n" + "x" * 200_000)
    assert "updated the comment of pull request 4" in post(url, "github").stdout
    assert len(handler.comments) == 2
    assert handler.comments[0]["body"].endswith("mine?"), "a stranger's comment with our mark is not ours"
    assert handler.comments[1]["body"].startswith("<!-- holdfast -->\n**Gate: failure** for commit new\n\n## FAIL")
    assert len(handler.comments[1]["body"]) <= 60_000
    assert {token for _, path, token in handler.seen if path == "/store"} == {None}, "the token stays with the API"


def test_what_the_pull_request_wrote_is_disarmed(forge: tuple[type[Forge], str]) -> None:
    handler, url = forge
    handler.artefact = packed(HOSTILE)
    assert post(url, "github").returncode == 0
    body = handler.comments[1]["body"]
    assert not re.search(r"@\w|#\d|!\[|<(img|script|/script|!-- hidden)", body)
    assert "<details open><summary>kept</summary>" in body
    assert "`a < b`" in body


SNEAKY = {
    "an encoded mention": "&#x40;octocat &commat;octocat @&#x6f;ctocat &AMP;commat;x",
    "an encoded reference": "&num;12 #&#49;2 GH-12 gh-7 !12",
    "the address of an issue": "https://forge.example/o/r/issues/12 //forge.example/o/r/-/Merge_Requests/3 x/pull/4 o/r/commit/abc",
    "GitLab's own references": "[issue:12] [EPIC:3] [work_item:a/b/4] o/r/-/incidents/5",
    "a quick action": "/merge\n  /approve\n\t/close",
    "hidden and reordering characters": "\u202eevil\u2066 \u200f\u00ad\x07",
}


@pytest.mark.parametrize("what", SNEAKY)
def test_what_a_forge_would_act_on_is_broken(forge: tuple[type[Forge], str], what: str) -> None:
    handler, url = forge
    handler.artefact = packed(f"## PASS\n{SNEAKY[what]}\n")
    assert post(url, "github").returncode == 0
    body = handler.comments[1]["body"].split("## PASS", 1)[1]
    shown = html.unescape(body)
    assert not re.search(
        r"@\w|#\d|!\d|(?i:GH-\d)|(?m:^\s*/\w)|[\u202a-\u202e\u2066-\u2069\u200e\u200f\u00ad\x07]|(?i:/(issues|pull|merge_requests|commit|incidents)/|\[\w+:[\w/]*\d)",
        shown,
    ), shown


@pytest.mark.parametrize(
    ("artefact", "said"),
    [
        (b"no zip", "cannot be read"),
        (b"", "cannot be read"),
        (packed("  \n"), "comment.md is empty"),
        (packed("x").replace(b"comment.md", b"another.md"), "holds no comment.md"),
        (b"x" * 5_000_001, "has more than 5,000,000 bytes"),
    ],
)
def test_an_artefact_without_a_comment_is_said_and_replaces_the_earlier_pass(
    forge: tuple[type[Forge], str], artefact: bytes, said: str
) -> None:
    handler, url = forge
    handler.artefact = packed("## PASS\n")
    assert post(url, "github").returncode == 0
    handler.artefact = artefact
    done = post(url, "github")
    assert (done.returncode, done.stderr) == (0, "")
    body = handler.comments[1]["body"]
    assert "PASS" not in body and said in body and "**Gate: failure** for commit new" in body


def test_nulls_of_an_api_are_no_crash(forge: tuple[type[Forge], str]) -> None:
    """A deleted user, an empty comment."""
    handler, url = forge
    handler.artefact = packed("## PASS\n")
    handler.comments.append({"id": 1, "body": None, "user": None, "author": None})
    assert "commented on pull request 4" in post(url, "github").stdout


def test_a_commit_that_heads_no_pull_request_gets_no_comment(forge: tuple[type[Forge], str]) -> None:
    handler, url = forge
    done = post(url, "github", HEAD_SHA="moved on")
    assert done.returncode == 0
    assert "nothing to comment" in done.stdout
    assert all(method == "GET" for method, _, _ in handler.seen)


def test_gitlab_gets_one_note_too(forge: tuple[type[Forge], str], tmp_path: Path) -> None:
    handler, url = forge
    (tmp_path / "comment.md").write_text(HOSTILE)
    for said in ("wrote the note", "updated the note"):
        assert said in post(url, "gitlab", str(tmp_path / "comment.md")).stdout
    assert len(handler.comments) == 2


def test_the_whole_report_passes_the_disarming_unchanged(tmp_path: Path) -> None:
    """Only what is dangerous may change: our own report is inert already."""
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        import comment
    finally:
        sys.path.remove(str(ROOT / ".ci"))
    text, _ = render(build(tmp_path, n=12))
    assert comment.disarm(text) == text
