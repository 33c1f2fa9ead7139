"""holdfast/engines/inspection.py: a model that cannot be used is refused in a few lines; a manifest notices every change."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, run_stage, set_params

from holdfast.core import manifest
from holdfast.core.errors import UserError


@pytest.fixture
def folder(project: Path, tiny: Path) -> Path:
    """A usable model in models/pocket/base of the working directory."""
    shutil.copytree(tiny, project / "models" / "pocket" / "base")
    return project / "models" / "pocket" / "base"


def run(models: dict | None = None, panel: list[str] | None = None, base: str = "base") -> None:
    models = models or {"base": {"path": "base"}}
    names = dict(base=base, panel=panel or list(models), arms=["arm"], retrain={"arms": [], "seeds": []}, embedder=None)
    set_params(Path(), model_folder="models/pocket", models=models, consensus={"strategy": "first"}, **names)
    run_stage("acquire")


def load(name: str = "base") -> manifest.Manifest:
    return manifest.load(Path("models/manifest") / f"{name}.json")


def test_the_manifest_describes_and_hashes_the_model(folder):
    run()
    found = load()
    assert (found.architecture, found.vocabulary, found.context, found.hub) == ("LlamaForCausalLM", 1024, 512, False)
    assert found.parameters == sum(p.numel() for p in manifest.load_model(folder).parameters())
    assert set(found.files) == {f.name for f in folder.iterdir()}
    assert found.revision == found.fingerprint
    assert not Path(found.source).is_absolute()
    assert found.folder() == Path("models/pocket/base")


def test_the_base_is_also_there_as_base(folder):
    run({"small": {"path": "base"}, "large": {"path": "base"}}, base="large")
    assert load("base") == load("large") != load("small")


def test_the_same_files_give_the_same_manifest(folder):
    run()
    first = Path("models/manifest/base.json").read_bytes()
    run()
    assert Path("models/manifest/base.json").read_bytes() == first


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "chat_template.jinja", "tokenizer.json"])
def test_a_changed_file_changes_the_fingerprint_and_is_noticed(folder, name):
    run()
    before = load()
    content = (folder / name).read_bytes()
    if name == "model.safetensors":
        content = content[:-1] + bytes([content[-1] ^ 1])  # the same size: only the hash can tell
    else:
        content = content.replace(b"}", b"} ", 1)
    (folder / name).write_bytes(content)
    run()
    assert load().fingerprint != before.fingerprint
    if name != "model.safetensors":
        with pytest.raises(UserError, match="has changed since `acquire`"):
            before.folder()


def test_a_file_that_is_gone_is_noticed(folder):
    run()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json: is missing[\s\S]*dvc repro acquire"):
        load().folder()


def test_a_file_that_is_no_part_of_a_model_changes_nothing(folder):
    run()
    before = load()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "README.md").write_text("hello")
    run()
    assert load() == before


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def garbage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def garbage_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["Llama')


def odd_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"architectures": []}
    (folder / "config.json").write_text(json.dumps(config))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def garbage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("\n{% for m in messages %}\n{{ m.content }")


FAULTS = {
    no_folder: "no such folder",
    no_config: "no config.json",
    only_pickles: "no safetensors weights",
    no_template: "no chat template",
    truncated_weights: "not a readable safetensors file",
    garbage_weights: "is a pointer of Git LFS",
    garbage_config: "config.json is not usable",
    odd_config: "config.json is not usable",
    no_tokenizer: "tokenizer",
    garbage_tokenizer: "tokenizer cannot be loaded",
    broken_template: "cannot render a lone user turn",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_model_is_refused_and_the_earlier_manifest_stays(folder, fault):
    run()
    before = Path("models/manifest/base.json").read_bytes()
    fault(folder)
    with pytest.raises(UserError, match=FAULTS[fault]) as caught:
        run()
    assert "models/pocket/base" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert Path("models/manifest/base.json").read_bytes() == before
    assert [f.name for f in Path("models/manifest").parent.iterdir() if f.name.startswith(".")] == []


def test_a_template_that_loops_without_end_stops_acquire_in_time(folder):
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
    file = folder / "chat_template.jinja"
    file.write_text(loops + file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="model 'base' has a chat template that does not finish within 5 s"):
        run()


@pytest.mark.parametrize("fault", [only_pickles, no_template, no_config])
def test_one_unusable_member_of_the_panel_is_enough(folder, fault):
    shutil.copytree(folder, folder.with_name("other"))
    fault(folder.with_name("other"))
    with pytest.raises(UserError, match=f"model 'other' has {FAULTS[fault]}"):
        run({"base": {"path": "base"}, "other": {"path": "other"}})
    assert not Path("models/manifest").exists()


@pytest.mark.parametrize("id", ["no/such/id", "two words/here", "../escape"])
def test_what_cannot_be_a_hub_id_is_refused_without_asking_the_hub(project, id):
    with pytest.raises(UserError, match="hub") as caught:
        run({"base": {"hub": id, "revision": "0" * 40}})
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("case", ["offline hub", "missing folder"])
def test_the_command_stops_with_exit_code_3_and_a_few_lines(folder, project, case):
    source = {"hub": "example/model", "revision": "0" * 40} if case == "offline hub" else {"path": "nowhere"}
    content = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    content |= {"models": {"base": source}, "panel": ["base"]}
    (project / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(project / "hub")}
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.cli", "run", "acquire"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert ("cannot reach the hub" if case == "offline hub" else "no such folder") in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3, done.stderr
    assert not (project / "models" / "manifest").exists()


class Hub(http.server.BaseHTTPRequestHandler):
    """Refuses every model for the reason that its name gives, as the hub does."""

    def do_HEAD(self) -> None:
        reason = next((r for r in ("RevisionNotFound", "RepoNotFound", "GatedRepo") if r.lower() in self.path), "")
        self.send_response(403 if reason == "GatedRepo" else 404)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


def test_what_the_hub_refuses_is_said_in_two_lines(project):
    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    code = (
        "from holdfast.core import errors, manifest\n"
        "for name in ('revisionnotfound', 'reponotfound', 'gatedrepo'):\n"
        "    try: manifest.hub_folder(f'a/{name}', '0' * 40)\n"
        "    except errors.UserError as error: print(error)"
    )
    environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(project)}
    environment |= {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    hub.shutdown()
    assert done.stdout.splitlines() == [
        "a/revisionnotfound@000000000000: the hub has no such revision",
        "  give the full commit hash from the model's page",
        "a/reponotfound@000000000000: the hub has no such model, or it is private",
        "  check the id; set HF_TOKEN for a private one",
        "a/gatedrepo@000000000000: the hub asks for permission",
        "  accept the licence on its page and set HF_TOKEN",
    ], done.stderr
