"""engines/local.py against transformers' own generation, plain forward passes and hand arithmetic."""

from __future__ import annotations

import runpy
import sys

import numpy as np
import pytest
import torch
from helpers import QUESTIONS, ROOT, describe
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from holdfast.chat import encoding
from holdfast.core import manifest
from holdfast.core.errors import UserError
from holdfast.engines import local
from holdfast.engines.decoding import Read, Writing
from holdfast.engines.interface import Sampling


@pytest.fixture(scope="module")
def engine(tiny, tmp_path_factory) -> local.Engine:
    return local.Engine(manifest.load(describe(tiny, tmp_path_factory.mktemp("manifest"))), batch=4)


@pytest.fixture(scope="module")
def prompts(engine) -> list[list[int]]:
    return [encoding.prompt_ids(engine.tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]


def forward(engine: local.Engine, ids: list[int]) -> torch.Tensor:
    """Log-probabilities (T, V) of one sequence by itself."""
    with torch.no_grad():
        return engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)


def complete(engine: local.Engine, prompts: list[list[int]], seeds: list[int], **changes) -> list[local.Completion]:
    stops = list(
        range(0, len(engine.tokenizer), 12)
    )  # one token in twelve ends a turn: rows leave the batch at different steps
    sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0, "max_tokens": 24, "stop_ids": stops} | changes)
    return engine.complete(prompts, seeds, sampling)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_sample_does_not_depend_on_which_rows_share_its_batch(engine, prompts, top_p):
    seeds = [local.seed_of("test", n) for n in range(len(prompts))]
    together = complete(engine, prompts, seeds, top_p=top_p)
    alone = [complete(engine, [p], [s], top_p=top_p)[0] for p, s in zip(prompts, seeds, strict=True)]
    reversed_order = complete(engine, prompts[::-1], seeds[::-1], top_p=top_p)[::-1]
    assert together == alone == reversed_order
    assert len({c.n_tokens for c in together}) > 3  # they did not end all at once


def widths(engine: local.Engine, monkeypatch) -> list[int]:
    """Rows in each forward pass from now on."""
    seen: list[int] = []
    plain = engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda **given: (seen.append(len(given["input_ids"])), plain(**given))[1]
    )
    return seen


def test_rows_join_those_that_still_write_and_change_none_of_them(engine, prompts, monkeypatch):
    many = [*prompts, *prompts[::-1]] * 2  # 28 rows, 4 at a time
    seeds = [local.seed_of("join", n) for n in range(len(many))]
    alone = [complete(engine, [p], [s])[0] for p, s in zip(many, seeds, strict=True)]
    seen = widths(engine, monkeypatch)
    assert complete(engine, many, seeds) == alone
    tokens = sum(done.n_tokens + (done.finish_reason == "stop") for done in alone)
    assert max(seen) == 4
    assert len(seen) < 0.5 * tokens  # nearly full batches; one batch after the other would wait for its longest row
    longest = [max(a.n_tokens for a in alone[i : i + 4]) for i in range(0, len(many), 4)]
    assert len(seen) < sum(longest)


def test_every_row_finds_its_keys_and_values_whoever_joins_and_leaves():
    """Random steps, joins of shorter and longer prompts, and leaves; a row's numbers are its own and come in their order."""
    draw, rows = np.random.default_rng(0), 6
    new = torch.manual_seed(0)

    def read(who: list[int]) -> tuple[Read, torch.Tensor]:
        """Prompts of 1 to 9 tokens for these rows, the last two of which share one."""
        lengths = draw.integers(1, 10, max(len(who) - 1, 1))
        of = torch.tensor([min(place, len(lengths) - 1) for place in range(len(who))])
        attention = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        cache = DynamicCache()
        for layer in (0, 1):
            cache.update(*torch.rand(2, len(lengths), 2, max(lengths), 3, generator=new), layer)
        for prompt, length in enumerate(lengths):
            attention[prompt, -length:] = 1
        for row, prompt in zip(who, of.tolist(), strict=True):
            known[row] = [
                tuple(held[prompt, :, -lengths[prompt] :].clone() for held in (layer.keys, layer.values))
                for layer in cache.layers
            ]
        return Read(who, of, cache, attention, torch.zeros(len(lengths), 1)), torch.tensor(who)

    known: dict[int, list] = {}
    writing, following = Writing(*read([0, 1, 2]), rows, True), 3
    for turn in range(300):
        count = len(writing.who)
        if count < rows and draw.random() < 0.3:
            many = list(range(following, following + int(draw.integers(1, rows - count + 1))))
            writing.join(*read(many))
            following += len(many)
        elif count > 1 and draw.random() < 0.3:
            writing.keep(sorted(draw.choice(count, size=int(draw.integers(1, count)), replace=False).tolist()))
        else:
            writing.attention = torch.cat([writing.attention, torch.ones_like(writing.position)], dim=1)
            writing.position += 1
            for layer in (0, 1):
                column = torch.rand(2, count, 2, 1, 3, generator=new)
                writing.cache.update(*column, layer)
                for place, row in enumerate(writing.who):
                    known[row][layer] = tuple(
                        torch.cat([held, one[place]], dim=1)
                        for held, one in zip(known[row][layer], column, strict=True)
                    )
        assert writing.tokens.tolist() == writing.who
        for place, row in enumerate(writing.who):
            mask = writing.attention[place].bool()
            assert int(mask.sum()) == writing.position[place].item() == known[row][0][0].shape[1]
            for layer in (0, 1):
                held = writing.cache.layers[layer]
                assert held.keys.shape[2] == len(mask)
                assert torch.equal(held.keys[place][:, mask], known[row][layer][0]), turn
                assert torch.equal(held.values[place][:, mask], known[row][layer][1]), turn
    assert following > 50


def test_a_model_that_keeps_a_window_of_its_keys_writes_one_batch_after_the_other(tmp_path, tokenizer, prompts):
    from transformers import MistralConfig, MistralForCausalLM

    size = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    torch.manual_seed(0)
    config = MistralConfig(vocab_size=len(tokenizer), sliding_window=8, initializer_range=0.3, **size)
    MistralForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    engine = local.Engine(manifest.load(describe(tmp_path / "base", tmp_path)), batch=3)
    seeds = list(range(len(prompts)))
    alone = [complete(engine, [p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert complete(engine, prompts, seeds) == alone


def test_the_seed_decides_the_sample(engine, prompts):
    three = [prompts[1]] * 3
    same, other = complete(engine, three, [5, 5, 6])[:2], complete(engine, three, [5, 5, 6])[2]
    assert same[0] == same[1] != other


def test_greedy_is_transformers_greedy(engine, prompts):
    found = complete(
        engine, prompts, [0] * len(prompts), temperature=0.0 * len(prompts), stop_ids=[engine.tokenizer.eos_token_id]
    )
    for prompt, completion in zip(prompts, found, strict=True):
        with torch.no_grad():
            whole = engine.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[0].tolist()
        written = whole[len(prompt) :]
        assert completion.finish_reason == ("stop" if written[-1] == engine.tokenizer.eos_token_id else "length")
        written = [token for token in written if token != engine.tokenizer.eos_token_id]
        assert completion.text == engine.tokenizer.decode(written)
        assert completion.n_tokens == len(written)


def test_each_row_has_its_own_temperature(engine, prompts):
    mixed = complete(engine, [prompts[1]] * 3, [1, 2, 3], temperature=[0.0, 1.0, 0.0])
    greedy = complete(engine, [prompts[1]], [9], temperature=0.0)[0]
    assert mixed[0] == mixed[2] == greedy != mixed[1]


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(engine, prompts):
    seeds = list(range(len(prompts)))
    free, stopped = complete(engine, prompts, seeds, stop_ids=[]), complete(engine, prompts, seeds)
    for whole, part in zip(free, stopped, strict=True):
        assert whole.text.startswith(part.text)
        assert part.finish_reason == ("stop" if part.n_tokens < 24 else "length")
    assert sum(c.n_tokens < 24 for c in stopped) > 3
    assert complete(engine, prompts[:1], [1], stop_ids=list(range(len(engine.tokenizer)))) == [
        local.Completion("", "stop", 0)
    ]


def test_max_tokens_ends_an_unfinished_text(engine, prompts):
    for n in (1, 7):
        found = complete(engine, prompts, [3] * len(prompts), stop_ids=[], max_tokens=n)
        assert {(c.finish_reason, c.n_tokens) for c in found} == {("length", n)}


def test_a_stop_string_ends_the_text_before_it(engine, prompts):
    free = complete(engine, prompts[:2], [1, 2], stop_ids=[])
    middle = free[0].text[9:13]
    cut = complete(engine, prompts[:2], [1, 2], stop_ids=[], stop_strings=[middle, "never written ⟦⟧"])
    assert cut[0].finish_reason == "stop"
    assert cut[0].text == free[0].text[: free[0].text.index(middle)]
    assert middle in free[1].text or cut[1] == free[1]


def test_too_long_a_prompt_says_so_before_anything_runs(engine):
    long = [[5] * 510]
    assert len(complete(engine, long, [1], max_tokens=2)) == 1
    for call in (
        lambda: complete(engine, long, [1], max_tokens=3),
        lambda: engine.next_token([[5] * 512], [1]),
        lambda: engine.logprob(long, [[5] * 3]),
    ):
        with pytest.raises(UserError, match="context of 512"):
            call()


def test_no_rows_give_no_rows(engine):
    assert complete(engine, [], []) == []
    assert engine.next_token([], [1, 2]).shape == (0, 2)
    assert engine.logprob([], []) == []
    assert engine.embed([]).shape == (0, 32)


def test_next_token_is_the_softmax_of_a_full_forward_pass(engine, prompts):
    choices = [7, 3, 900]
    found = engine.next_token(prompts, choices)
    assert found.shape == (len(prompts), 3)
    for prompt, row in zip(prompts, found, strict=True):
        assert row == pytest.approx(forward(engine, prompt)[-1, choices].exp().numpy(), rel=1e-4, abs=1e-9)


def test_logprob_is_the_mean_over_the_continuation(engine, prompts):
    continuations = [[9, 8, 7], [5], list(range(20, 60)), [1, 2], [3] * 9, [30], [400, 401]]
    found = engine.logprob(prompts, continuations)
    for prompt, continuation, value in zip(prompts, continuations, found, strict=True):
        each = forward(engine, prompt + continuation)[len(prompt) - 1 : -1]
        by_hand = sum(each[t, token].item() for t, token in enumerate(continuation)) / len(continuation)
        assert value == pytest.approx(by_hand, rel=1e-4)


def test_scoring_with_a_wide_vocabulary_holds_few_logits_at_once(engine, monkeypatch):
    """150,000 tokens times every position of a batch would fill the memory: 86 M numbers here, if they were computed at once."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import LlamaConfig, LlamaForCausalLM

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.numbers = max([self.numbers, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
            return out

    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    wide = LlamaForCausalLM(
        LlamaConfig(vocab_size=60_000, max_position_embeddings=512, initializer_range=0.3, **sizes)
    ).eval()
    monkeypatch.setattr(engine, "model", wide)
    monkeypatch.setattr(engine, "batch", 16)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(60_000, size=n).tolist() for n in rng.integers(0, 50, size=24)]
    continuations = [rng.integers(60_000, size=n).tolist() for n in [0, *rng.integers(1, 30, size=23)]]
    with Largest() as free:
        expected = engine.logprob(prompts, continuations)
    monkeypatch.setattr(manifest, "logits_at_once", lambda: 2_000_000)  # of 33 tokens: the weights are 960,000
    with Largest() as bounded:
        found = engine.logprob(prompts, continuations)
    assert bounded.numbers <= 2_000_000 < 5 * bounded.numbers < free.numbers
    assert found == pytest.approx(expected, rel=1e-5)
    for prompt, continuation, value in list(zip(prompts, continuations, found, strict=True))[1:]:
        start = max(len(prompt), 1)
        each = forward(engine, prompt + continuation)[start - 1 : -1]
        targets = (prompt + continuation)[start:]
        assert value == pytest.approx(each[range(len(targets)), targets].mean().item(), rel=1e-4)
    assert found[0] == 0.0  # nothing said, nothing counted


def test_an_embedding_is_the_mean_state_whatever_it_was_padded_with(engine):
    texts = [*QUESTIONS, ""]
    together = engine.embed(texts)
    for text, row in zip(QUESTIONS, together, strict=False):
        assert row == pytest.approx(engine.embed([text])[0], abs=1e-5)
        with torch.no_grad():
            states = (
                engine.model.base_model(torch.tensor([encoding.tokenise(engine.tokenizer, text)]))
                .last_hidden_state[0]
                .mean(0)
            )
        assert row == pytest.approx((states / states.norm()).numpy(), abs=1e-5)
    assert np.linalg.norm(together[: len(QUESTIONS)], axis=1) == pytest.approx(np.ones(len(QUESTIONS)), abs=1e-5)
    assert np.isfinite(together).all()


def drawn(
    probabilities: list[float], uniform: float, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0
) -> int:
    logits = torch.tensor([probabilities]).log()
    return int(local.sample(logits, np.array([uniform]), torch.tensor([temperature]), top_p, min_p))


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.69, 1), (0.71, 2), (0.99, 2), (1 - 2**-53, 2)]
)
def test_sample_inverts_the_cumulative_distribution(uniform, token):
    assert drawn([0.2, 0.5, 0.3], uniform) == token


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.62, 1), (0.63, 2), (0.99, 2), (1 - 2**-53, 2)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(uniform, token):
    """0.5 + 0.3 reach 0.7; of what is kept, 0.5/0.8 = 0.625 falls to the first."""
    assert drawn([0.2, 0.5, 0.3], uniform, top_p=0.7) == token
    assert drawn([0.2, 0.5, 0.3], uniform, top_p=0.5) == 1  # the first alone reaches it


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.62, 1), (0.63, 2), (0.99, 2), (1 - 2**-53, 2)])
def test_min_p_keeps_what_has_that_part_of_the_most_probable_token(uniform, token):
    """0.3 is more than half of 0.5, 0.2 is less; at temperature 1/2 0.3 is 0.36 of 0.5."""
    assert drawn([0.2, 0.5, 0.3], uniform, min_p=0.5) == token
    assert drawn([0.2, 0.5, 0.3], uniform, temperature=0.5, min_p=0.5) == 1


def test_rounding_that_swaps_two_ranks_draws_the_same_token():
    """Batches of other sizes give logits that differ in the last bits; near-tied tokens then change places in the order."""
    logits = torch.tensor([[1.0, 2.0, 2.0 + 1e-6, 2.0, 0.5, 2.0 - 1e-6]]).expand(99, 6)
    noise = torch.tensor([0.0, 1e-5, -1e-5, 0.0, 0.0, 1e-5])
    uniform = np.arange(1, 100) / 100
    for top_p in (0.99, 1.0):
        before, after = (local.sample(x, uniform, torch.ones(99), top_p) for x in (logits, logits + noise))
        assert before.tolist() == after.tolist()
        assert len(set(before.tolist())) >= 5


def test_temperature_by_hand():
    """At temperature 1/2 the probabilities are squared: 4, 25 and 9 of 38."""
    for uniform, token in ((4 / 38 - 0.01, 0), (4 / 38 + 0.01, 1), (29 / 38 - 0.01, 1), (29 / 38 + 0.01, 2)):
        assert drawn([0.2, 0.5, 0.3], uniform, temperature=0.5) == token
    assert drawn([0.2, 0.5, 0.3], 0.99, temperature=0.0) == 1


def test_samples_follow_the_distribution():
    rng = np.random.default_rng(0)
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(20_000, 3)
    for top_p, expected in ((1.0, [0.2, 0.5, 0.3]), (0.7, [0.0, 0.625, 0.375])):
        tokens = local.sample(logits, rng.random(20_000), torch.ones(20_000), top_p)
        assert np.bincount(tokens.numpy(), minlength=3) / 20_000 == pytest.approx(expected, abs=0.015)


def test_a_row_s_seed_depends_on_every_part():
    seeds = {local.seed_of(*parts) for parts in ((1, "a", 2), (1, "a", 3), (1, "b", 2), (2, "a", 2), (1, "a"))}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert local.seed_of(1, "a", 2) == local.seed_of(1, "a", 2)


def test_a_start_that_all_prompts_share_is_computed_once(engine, prompts, monkeypatch):
    """A rubric's head: the same probabilities as prompt by prompt, for fewer tokens."""
    head = list(range(7, 47))
    asked = [head + prompt for prompt in prompts]
    alone = np.concatenate([engine.next_token([one], [1, 2, 3]) for one in asked])
    passed, forward = [], engine.model.forward

    def counting(*args, **given):
        passed.append(given["input_ids"].numel())
        return forward(*args, **given)

    monkeypatch.setattr(engine.model, "forward", counting)
    np.testing.assert_allclose(engine.next_token(asked, [1, 2, 3]), alone, atol=2e-6)
    padded = len(asked) * max(map(len, asked))
    assert sum(passed) <= padded - (len(asked) - 1) * len(head)


def test_the_gpu_benchmark_runs_on_a_cpu_when_told_to_and_says_where_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny"])
    runpy.run_module("benchmarks.speed.gpu", run_name="__main__")
    output = capsys.readouterr().out
    cells = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("|")]
    assert cells[2:] == [
        "generation",
        "scoring",
        "cross-entropy, 2 rows at once",
        "KL on half of the rows, 2 rows at once",
    ]
    assert "a trial, no measurement" in output or torch.cuda.is_available()
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", ["gpu"])
        with pytest.raises(SystemExit, match="no GPU"):
            runpy.run_module("benchmarks.speed.gpu", run_name="__main__")


def test_shards_are_of_all_code_that_decides_them_and_of_no_other(tiny, tmp_path):
    from holdfast.engines import registry
    from holdfast.panel import responses
    from holdfast.reconstruction import user_turns

    entry = manifest.load(describe(tiny, tmp_path))
    for module, more in ((responses, "holdfast.panel.responses"), (user_turns, "holdfast.data.instructions")):
        names = {name for name, _ in registry.engine_identity(entry, module.__file__)[-1]}
        deciding = {"interface", "local", "decoding"}
        assert names >= {more, "holdfast.chat.encoding", *(f"holdfast.engines.{name}" for name in deciding)}
        assert not names & {f"holdfast.engines.{name}" for name in ("openai", "endpoint", "vllm", "ray")}
        assert not any(name.startswith("holdfast.params.") or name.endswith(".cache") for name in names)


def test_temperatures_are_one_for_all_rows_or_one_for_each():
    assert Sampling(0.5, 1.0, 4).temperatures(2) == [0.5, 0.5]
    assert Sampling([0.0, 1.0], 1.0, 4).temperatures(2) == [0.0, 1.0]
    with pytest.raises(ValueError, match="2 temperatures for 3 rows"):
        Sampling([0.0, 1.0], 1.0, 4).temperatures(3)
