"""engines/vllm.py: every call fits what vLLM 0.32 takes and gives, as recorded from its sources, and what comes out is what the
transformers engine gives. vLLM itself is asked where it is installed; elsewhere a stand-in answers that takes no other names.

python tests/engines/test_vllm.py SITE_PACKAGES > tests/engines/vllm.json        (records the names anew from vLLM's sources, without importing it)
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import QUESTIONS, ROOT, describe

RECORD = Path(__file__).with_name("vllm.json")
PLACES = {  # what is recorded, the module of vLLM, its class, the method whose parameters count (none: the class's fields)
    "LLM": ("entrypoints/llm.py", "LLM", "__init__"),
    "EngineArgs": ("engine/arg_utils.py", "EngineArgs", None),  # what LLM hands on
    "generate": ("entrypoints/llm.py", "LLM", "generate"),
    "TokensPrompt": ("inputs/llm.py", "TokensPrompt", None),
    "SamplingParams": ("sampling_params.py", "SamplingParams", None),
    "RequestOutput": ("outputs.py", "RequestOutput", "__init__"),
    "CompletionOutput": ("outputs.py", "CompletionOutput", None),
    "Logprob": ("logprobs.py", "Logprob", None),
}
USED = {  # names of ours; the record holds these and no others
    "LLM": "model dtype enforce_eager tensor_parallel_size gpu_memory_utilization trust_remote_code seed",
    "EngineArgs": "max_model_len enable_prefix_caching generation_config",
    "generate": "prompts sampling_params use_tqdm",
    "TokensPrompt": "prompt_token_ids",
    "SamplingParams": "seed temperature top_p min_p max_tokens stop_token_ids stop detokenize skip_special_tokens ignore_eos "
    "logprob_token_ids prompt_logprobs",
    "RequestOutput": "outputs prompt_logprobs",
    "CompletionOutput": "token_ids finish_reason logprobs",
    "Logprob": "logprob",
}


def recorded(folder: Path) -> dict[str, list[str]]:
    """The names of USED that the vLLM in this folder has."""
    found = {}
    for what, (module, name, method) in PLACES.items():
        tree = ast.parse((folder / "vllm" / module).read_text(encoding="utf-8"))
        body = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name).body
        if method:
            given = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == method).args
            names = {a.arg for a in (*given.args, *given.kwonlyargs)}
        else:
            names = {n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        found[what] = sorted(set(USED[what].split()) & names)
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    version = next(where.glob("vllm*.dist-info")).name.removesuffix(".dist-info").partition("-")[2]
    print(json.dumps({"version": version, **recorded(where)}, indent=1))
    raise SystemExit


from holdfast.chat import encoding  # noqa: E402
from holdfast.core import manifest, shards  # noqa: E402
from holdfast.core.errors import UserError  # noqa: E402
from holdfast.core.yaml_text import Loader  # noqa: E402
from holdfast.engines import local, registry, vllm  # noqa: E402
from holdfast.engines.interface import Sampling  # noqa: E402
from holdfast.panel import responses  # noqa: E402
from holdfast.params.base import parse  # noqa: E402
from holdfast.params.models import Model  # noqa: E402
from holdfast.params.respond import Respond  # noqa: E402
from holdfast.params.whole import Params  # noqa: E402

NAMES = json.loads(RECORD.read_text(encoding="utf-8"))
VERSION = NAMES.pop("version")
installed = importlib.util.find_spec("vllm")


def test_the_record_has_every_name_that_the_engine_uses():
    assert VERSION == "0.32.0"  # docs/engines.md and pyproject.toml say so too
    assert {what: sorted(names.split()) for what, names in USED.items()} == NAMES


@pytest.mark.skipif(
    installed is None, reason="vLLM is not installed: its interface is checked against the record alone"
)
def test_the_installed_vllm_has_what_was_recorded():
    assert recorded(Path(installed.origin).parents[2]) == NAMES


class Given:
    """Takes the recorded names of one class or call, and no others."""

    def __init__(self, what: str, **fields: Any) -> None:
        assert set(fields) <= set(NAMES[what]), f"vLLM's {what} has no {set(fields) - set(NAMES[what])}"
        self.__dict__.update(fields)


def stand_in(engine: local.Engine) -> types.ModuleType:
    """A module `vllm` whose LLM writes token by token what the transformers engine would, one request after the other."""
    import torch

    module = types.ModuleType("vllm")
    module.seen = []

    def forward(ids: list[int]) -> Any:
        with torch.no_grad():
            return engine.model(torch.tensor([ids])).logits[0].float()  # (T, V)

    def table(row: Any, tokens: list[int]) -> dict[int, Given]:
        return {token: Given("Logprob", logprob=float(row.log_softmax(-1)[token])) for token in tokens}

    class LLM:
        def __init__(self, **fields: Any) -> None:
            own = {k: v for k, v in fields.items() if k in NAMES["LLM"]}
            Given("EngineArgs", **{k: v for k, v in fields.items() if k not in own})
            assert fields["trust_remote_code"] is False
            module.started = fields
            if fields["gpu_memory_utilization"] < 0.1:
                raise ValueError("No available memory for the cache blocks. Try increasing it.\nmore")

        def generate(self, prompts: list[dict], sampling_params: list[Given], **more: Any) -> list[Given]:
            Given("generate", prompts=prompts, sampling_params=sampling_params, **more)
            return [self.one(Given("TokensPrompt", **p), s) for p, s in zip(prompts, sampling_params, strict=True)]

        def one(self, prompt: Given, how: Given) -> Given:
            module.seen.append(how)
            ids, written, finish_reason, first = list(prompt.prompt_token_ids), [], "length", None
            fields = {
                "temperature": 1.0,
                "top_p": 1.0,
                "min_p": 0.0,
                "seed": 0,
                "stop_token_ids": [],
                "stop": [],
                **vars(how),
            }
            assert fields["detokenize"] or not fields["stop"], "vLLM finds stop strings in text alone"
            assert len(ids) + fields["max_tokens"] <= module.started["max_model_len"]
            uniform = np.random.default_rng(fields["seed"]).random(fields["max_tokens"])
            for n in range(fields["max_tokens"]):
                row = forward(ids + written)[-1:]
                first = table(row[0], fields.get("logprob_token_ids", [])) if first is None else first
                heat = torch.tensor([fields["temperature"]], dtype=torch.float32)
                written.append(int(local.sample(row, uniform[n : n + 1], heat, fields["top_p"], fields["min_p"])))
                text = engine.tokenizer.decode(written)
                if written[-1] in fields["stop_token_ids"] or any(s in text for s in fields["stop"]):
                    finish_reason = "stop"
                    break
            read = None
            if "prompt_logprobs" in vars(how):
                rows = forward(ids)
                read = [None, *(table(rows[n], [token]) for n, token in enumerate(ids[1:]))]
            done = Given(
                "CompletionOutput", token_ids=written, finish_reason=finish_reason, logprobs=[first] if first else None
            )
            return Given("RequestOutput", outputs=[done], prompt_logprobs=read)

    module.LLM = LLM
    module.SamplingParams = lambda **fields: Given("SamplingParams", **fields)
    return module


@pytest.fixture(scope="module")
def entry(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> manifest.Manifest:
    how = dict(gpu_memory_utilization=0.4, enforce_eager=True)
    return manifest.load(describe(tiny, tmp_path_factory.mktemp("manifest"), dtype="float32", vllm=how))


@pytest.fixture(scope="module")
def here(entry: manifest.Manifest) -> local.Engine:
    return local.Engine(entry, 4)


@pytest.fixture
def module(here: local.Engine, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    found = stand_in(here)
    platforms = types.ModuleType("vllm.platforms")
    platforms.current_platform = types.SimpleNamespace(is_cpu=lambda: True)
    monkeypatch.setitem(sys.modules, "vllm", found)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(registry, "_loaded", {})
    return found


@pytest.fixture
def engine(module: types.ModuleType, entry: manifest.Manifest) -> vllm.Engine:
    found = registry.load_engine(entry, 4)
    assert isinstance(found, vllm.Engine)
    return found


CHATS = [[{"role": "user", "content": text}] for text in QUESTIONS]
SEEDS = [local.seed_of("test", n) for n in range(len(QUESTIONS))]


def many_ends(engine: local.Engine) -> list[int]:
    return list(range(0, len(engine.tokenizer), 12))  # one token in twelve ends a turn


@pytest.mark.parametrize("ends", [{}, {"stop_ids": [], "stop_strings": ["a", "e 1"]}, {"max_tokens": 1}])
def test_completions_are_those_of_the_transformers_engine(engine, here, ends):
    prompts = [encoding.prompt_ids(here.tokenizer, c) for c in CHATS]
    heats = [0.0, 1.0, 0.8, 1.0, 1.2, 1.0, 1.0]
    sampling = Sampling(heats, 0.9, **{"max_tokens": 16, "stop_ids": many_ends(here), **ends})
    found = engine.complete(prompts, SEEDS, sampling)
    assert found == here.complete(prompts, SEEDS, sampling)
    assert len({one.finish_reason for one in found}) == 2 or ends
    sampling = Sampling(0.7, 1.0, 8)
    assert engine.answer(CHATS, SEEDS, sampling) == here.answer(CHATS, SEEDS, sampling)


def test_scores_and_likelihoods_are_those_of_the_transformers_engine(engine, here):
    assert engine.scores(CHATS) == pytest.approx(here.scores(CHATS), rel=1e-4, abs=1e-9)
    answers = ["7", "a b c", "", "Tresa", "x", "1 2 3", "?"]
    assert engine.likelihood(CHATS, answers) == pytest.approx(here.likelihood(CHATS, answers), rel=1e-4)
    assert engine.lengths(CHATS) == here.lengths(CHATS)


def test_every_request_has_its_own_seed_and_ends_where_we_say(engine, module):
    engine.answer(CHATS, SEEDS, Sampling(0.7, 0.9, 4))
    assert [how.seed for how in module.seen] == SEEDS
    assert all(how.ignore_eos and how.stop_token_ids for how in module.seen)
    assert module.started["max_model_len"] == 512
    assert module.started["enable_prefix_caching"]


def test_no_rows_give_no_rows(engine):
    assert engine.complete([], [], Sampling(1.0, 1.0, 4)) == []
    assert engine.scores([]).shape == (0, 5)
    assert engine.likelihood([], []) == []


def test_too_long_a_prompt_says_so_before_vllm_would_cut_it(module, tiny, tmp_path):
    short = manifest.load(describe(tiny, tmp_path, vllm={"max_model_len": 40}))
    engine = registry.load_engine(short, 4)
    assert module.started["dtype"] == (
        "float32" if manifest.find_device().type == "cpu" else "bfloat16"
    )  # as elsewhere
    for call in (
        lambda: engine.complete([[5] * 38], [1], Sampling(1.0, 1.0, 3)),
        lambda: engine.next_token([[5] * 40], [1]),
        lambda: engine.logprob([[5] * 30], [[5] * 10]),
    ):
        with pytest.raises(UserError, match="context of 40"):
            call()
    assert module.seen == []


def test_what_is_missing_is_said_in_two_lines(module, entry, tiny, tmp_path, monkeypatch):
    low = manifest.load(describe(tiny, tmp_path, vllm={"gpu_memory_utilization": 0.01}))
    with pytest.raises(UserError, match="vLLM does not start .No available memory") as said:
        registry.load_engine(low, 4)
    assert len(str(said.value).splitlines()) == 2
    monkeypatch.setattr(sys.modules["vllm.platforms"].current_platform, "is_cpu", lambda: False)
    if manifest.find_device().type == "cpu":
        with pytest.raises(UserError, match="finds no GPU"):
            registry.load_engine(entry, 4)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"vLLM is not installed.*\n.*docs/engines.md"):
        registry.load_engine(entry, 4)


def test_another_engine_s_results_are_not_taken_from_the_cache(entry, tiny, tmp_path):
    plain = manifest.load(describe(tiny, tmp_path, dtype="float32"))
    assert registry.engine_identity(entry, __file__) != registry.engine_identity(plain, __file__)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(endpoint="http://localhost:1/v1", model="m", vllm={}), "remove 'vllm' and 'ray'"),
        (dict(vllm={"tensor_parallel_size": 2}, ray={"gpus": 1.0}), "'ray.gpus' of an actor"),
        (dict(vllm={"gpu_memory_utilization": 1.5}), "gpu_memory_utilization"),
        (dict(vllm={"trust_remote_code": True}), "trust_remote_code"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        parse(Model, {"path": "base", **fields})


@pytest.mark.parametrize("name", ["llama-3.1-8b", "paper"])
def test_a_profile_s_servers_can_be_vllm_in_process_on_a_ray_cluster(name, tmp_path):
    """params.yaml changes, and nothing else."""
    content = yaml.load((ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8"), Loader)
    for model in content["models"].values():
        if "hub" in model:
            for key in ("endpoint", "model", "concurrency"):
                del model[key]
            model |= {"vllm": {"tensor_parallel_size": 4, "max_model_len": 8192}, "ray": {"actors": 2, "gpus": 4}}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    settings = Params.load(file)
    assert settings.models["base"].vllm.tensor_parallel_size == 4
    assert settings.models["base"].ray.gpus == 4


@pytest.mark.slow
@pytest.mark.skipif(installed is None, reason="vLLM is not installed: a stand-in with its recorded interface was asked")
def test_vllm_itself_agrees_with_the_transformers_engine(tmp_path, monkeypatch):
    """On the pocket lab's base; its builds for CPUs know no smaller heads."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    how = dict(gpu_memory_utilization=0.4, max_model_len=512, enforce_eager=True)
    entry = manifest.load(describe(ROOT / "models" / "pocket" / "base", tmp_path, dtype="float32", vllm=how))
    here, real = local.Engine(entry, 4), vllm.Engine(entry, 4)
    prompts = [encoding.prompt_ids(here.tokenizer, c) for c in CHATS]
    ends = encoding.assistant_stop_ids(here.tokenizer)
    for greedy in (
        Sampling(0.0, 1.0, 24, ends),
        Sampling(0.0, 1.0, 3, ends),
        Sampling(0.0, 1.0, 24, [], ["e", "1"]),
        Sampling(0.0, 1.0, 24, many_ends(here)),
    ):
        assert real.complete(prompts, SEEDS, greedy) == here.complete(prompts, SEEDS, greedy)
    prefix = [encoding.find_pre_query(here.tokenizer, "base").prefix_ids] * len(SEEDS)
    random = Sampling(1.0, 0.9, 24, ends)
    drawn = real.complete(prefix, SEEDS, random)
    assert len({one.text for one in drawn}) > 3
    assert real.complete(prefix, SEEDS[::-1], random)[::-1] == drawn  # a seed is a row's own
    assert real.scores(CHATS) == pytest.approx(here.scores(CHATS), rel=1e-3, abs=1e-7)
    answers = ["7", "a b c", "", "Tresa", "x", "1 2 3", "?"]
    assert real.likelihood(CHATS, answers) == pytest.approx(here.likelihood(CHATS, answers), rel=1e-3)
    with pytest.raises(UserError, match="context of 512"):
        real.complete([[5] * 510], [1], Sampling(1.0, 1.0, 3, ends))


@pytest.mark.slow
@pytest.mark.skipif(
    installed is None or importlib.util.find_spec("ray") is None, reason="vLLM and Ray are not both installed"
)
def test_an_actor_on_a_ray_cluster_holds_vllm(project, monkeypatch):
    import ray

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    how = dict(gpu_memory_utilization=0.4, max_model_len=512, enforce_eager=True)
    gpus = float(manifest.find_device().type != "cpu")
    fields = dict(dtype="float32", vllm=how, ray=dict(actors=1, gpus=gpus, address="local"))
    entry = manifest.load(describe(ROOT / "models" / "pocket" / "base", project, **fields))
    rows = [[f"q{n}", [], text, 0] for n, text in enumerate(QUESTIONS)]
    settings = Respond(k=1, temperature=0.0, max_tokens=24, shard=3)
    work = partial(responses.answer_shard, params=settings, member=entry)
    try:
        rows = shards.run_shards("respond", rows, settings.shard, ["test"], work, workers=registry.choose_spread(entry))
    finally:
        ray.shutdown()
    here = local.Engine(entry, 4).answer(CHATS, SEEDS, Sampling(0.0, 1.0, 24))
    assert [row["text"] for row in rows] == [one.text.strip() for one in here]
