"""The losses against hand arithmetic, how a step is cut into parts, and the cached side of the base."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from holdfast.core import manifest
from holdfast.training import anchors, base_logprobs, batches, losses, steering, token_masking, trainer

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def test_cross_entropy_by_hand_for_domain_and_replayed_tokens():
    logits = torch.tensor([[0.0, 0.0], [LN3, 0.0], [0.0, LN3]])  # p = 1/2, 3/4 and 1/4 of token 0
    labels = torch.tensor([1, 0, losses.REPLAY])
    found = losses.cross_entropies(logits, labels).tolist()
    assert found == pytest.approx([LN2, LN4 - LN3, LN4], rel=1e-6)


def test_dft_weighs_a_token_by_its_own_probability_and_the_weight_has_no_gradient():
    each = torch.tensor([LN2, LN4], requires_grad=True)
    weighed = losses.dft(each)
    assert weighed.tolist() == pytest.approx([LN2 / 2, LN4 / 4])
    weighed.sum().backward()
    assert each.grad.tolist() == pytest.approx([1 / 2, 1 / 4])


def test_kl_by_hand_and_in_its_direction():
    half, quarter = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, LN3]])  # (1/2, 1/2) and (1/4, 3/4)
    forward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    backward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert losses.kl_sum(half, quarter).item() == pytest.approx(forward, rel=1e-5)
    assert losses.kl_sum(quarter, half).item() == pytest.approx(backward, rel=1e-5)
    assert losses.kl_sum(half, half + 7).item() == pytest.approx(0, abs=1e-6)  # logits have no zero point
    assert losses.kl_sum(half.repeat(3, 1), quarter.repeat(3, 1)).item() == pytest.approx(3 * forward, rel=1e-5)


def test_kl_of_the_likeliest_tokens_counts_the_rest_as_one_outcome():
    base, tuned = torch.tensor([[5, 3, 1, 1]]) / 10, torch.tensor([[4, 2, 1, 3]]) / 10
    tokens, logprobs = losses.top_k(base.log(), 2)
    assert tokens.tolist() == [[0, 1]]
    assert logprobs.exp()[0].tolist() == pytest.approx([0.5, 0.3])
    by_hand = 0.5 * math.log(5 / 4) + 0.3 * math.log(3 / 2) + 0.2 * math.log(2 / 4)
    assert losses.kl_top_k_sum(tokens, logprobs, tuned.log() + 3).item() == pytest.approx(by_hand, rel=1e-5)
    assert by_hand < losses.kl_sum(base.log(), tuned.log()).item()  # what the coarser view cannot see


def test_kl_of_the_likeliest_tokens_is_exact_where_it_can_be():
    torch.manual_seed(0)
    base, tuned = torch.randn(6, 9), torch.randn(6, 9)
    whole = losses.kl_sum(base, tuned).item()
    assert losses.kl_top_k_sum(*losses.top_k(base, 9), tuned).item() == pytest.approx(whole, rel=1e-5)
    assert losses.kl_top_k_sum(*losses.top_k(base, 99), tuned).item() == pytest.approx(whole, rel=1e-5)
    by_k = [losses.kl_top_k_sum(*losses.top_k(base, k), tuned).item() for k in range(1, 10)]
    assert by_k == sorted(by_k)  # data processing: more outcomes, more divergence
    assert losses.kl_top_k_sum(*losses.top_k(base, 3), base).item() == pytest.approx(0, abs=1e-6)
    peaked = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)  # nothing is left for the rest
    loss = losses.kl_top_k_sum(*losses.top_k(peaked.detach(), 1), peaked)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert peaked.grad.isfinite().all()


def test_the_kl_s_weight_follows_the_measured_kl():
    """b (1 + 0.1 clip((kl - target) / target, -0.2, 0.2)): arXiv 1909.08593, eq. 2."""
    for kl, expected in ((0.11, 2 * 1.01), (0.09, 2 * 0.99), (0.1, 2.0), (5.0, 2 * 1.02), (0.0, 2 * 0.98)):
        assert losses.steer(torch.tensor(2.0), torch.tensor(kl), 0.1).item() == pytest.approx(expected, rel=1e-6)
    callback = steering.KLSteering(0.1, lambda part: 2 * part)  # two processes with equal parts
    state = SimpleNamespace(stateful_callbacks={"KLSteering": {"attributes": {"factor": 3.0}}})
    callback.on_train_begin(SimpleNamespace(device="cpu"), state, None)
    for parts, expected in (
        ([0.03, 0.025], 3 * 1.01),
        ([0.0, 0.0], 3 * 1.01),
        ([], 3 * 1.01),
        ([0.04], 3 * 1.01 * 0.98),
    ):
        for part in parts:
            callback.add(torch.tensor(part))
        callback.on_step_end(None, state, None)
        assert callback.factor.item() == pytest.approx(expected, rel=1e-6)
    assert callback.state()["attributes"]["factor"] == callback.factor.item()


def test_labels_say_which_loss_a_token_has():
    ids, mask = [5, 6, 7, 8], [0, 0, 1, 1]
    x, k = losses.IGNORE_INDEX, losses.KL
    assert losses.labels_of(ids, mask, "domain", "kl", "all") == [x, x, 7, 8]
    assert losses.labels_of(ids, mask, "domain", "ce", "all") == [x, x, 7, 8]
    assert losses.labels_of(ids, mask, "replay", "ce", "all") == [x, x, losses.REPLAY + 7, losses.REPLAY + 8]
    assert losses.labels_of(ids, mask, "replay", "kl", "response") == [x, x, k, k]
    assert losses.labels_of(ids, mask, "replay", "kl", "all") == [k, k, k, k]
    assert losses.labels_of(ids, mask, "replay", "kl", "all", 10) == [k - 10, k - 11, k - 12, k - 13]
    assert losses.labels_of(ids, mask, "replay", "kl", "response", 10) == [x, x, k - 12, k - 13]


class Line(torch.nn.Module):
    """Logits of the next token: (0, a) for token 0 and (0, b) for token 1."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([a, b]))

    def forward(self, input_ids, use_cache=False):
        second = self.slope[input_ids]  # (B, T)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(second), second], -1))


class Bigrams(torch.nn.Module):
    """p(next | token) from a table of logits, whatever stands before."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.table[input_ids])


def test_tokens_that_the_base_finds_unlikely_are_not_trained_on(monkeypatch):
    base = Bigrams([[0.5, 0.1, 0.4], [0.25, 0.7, 0.05], [0.3, 0.3, 0.4]])
    ignored, replay = losses.IGNORE_INDEX, losses.REPLAY
    rows = [[0, 1, 0, 2, 1], [0, 2], [0, 1, 0, 2, 1], [0, 1]]
    labels = [[ignored, 1, 0, 2, 1], [ignored, 2], [ignored, 1, 0, 2, 1], [ignored, 1 + replay]]
    # perplexities of the first row: 10, 4, 2.5, 3.33; of the second: 2.5
    for most, keep, first in ((3.0, (), [2]), (3.9, (), [2, 1]), (3.0, (1,), [1, 2, 1])):
        for at_once in (1, 8192):
            monkeypatch.setattr(token_masking, "TOKENS_AT_ONCE", at_once)
            masked = token_masking.mask_labels(base, rows, labels, most, keep)
            assert [label for label in masked.labels[0] if label != ignored] == first
            assert masked.labels[2] == masked.labels[0] and masked.labels[1] == labels[1]
            assert masked.labels[3] == labels[3], "replay rows are the base's own words"
            assert (masked.masked, masked.total) == (2 * (4 - len(first)), 9 - 4 * bool(keep))


def test_anchors_by_hand():
    start, now = Line(1.0, 2.0), Line(3.0, 1.0)
    weights, origin = anchors.trainable_weights(now), anchors.copy_weights(start)
    assert anchors.penalty(weights, origin, None).item() == pytest.approx(0.5 * (4 + 1))
    importance = {"slope": torch.tensor([0.5, 3.0])}
    loss = anchors.penalty(weights, origin, importance)
    assert loss.item() == pytest.approx(0.5 * (0.5 * 4 + 3 * 1))
    loss.backward()
    assert now.slope.grad.tolist() == pytest.approx([0.5 * 2, 3 * -1])
    anchors.average(now, origin, 0.25)
    assert now.slope.tolist() == pytest.approx([1.5, 1.75])
    assert origin["slope"].tolist() == [1.0, 2.0]


def test_fisher_is_the_mean_squared_gradient_of_a_row_s_log_likelihood():
    model = Line(LN3, 0.0)  # p(1 after 0) = 3/4, p(1 after 1) = 1/2
    rows = [([0, 1, 1], [0, 1, 1]), ([0, 0], [0, 1])]
    # d log p(1)/d slope = 1 - p, d log p(0)/d slope = -p: rows give (1/4, 1/2) and (-3/4, 0)
    found = anchors.fisher(model, rows)["slope"].tolist()
    assert found == pytest.approx([(1 / 16 + 9 / 16) / 2, (1 / 4) / 2])
    assert model.slope.grad is None
    only_last = anchors.fisher(model, [([0, 1, 1], [0, 0, 1])])["slope"].tolist()
    assert only_last == pytest.approx([0, 1 / 4])


LENGTHS = [5, 30, 7, 22, 9, 3, 18, 40, 6, 12, 11, 8]


@pytest.mark.parametrize(("size", "parts"), [(4, 1), (4, 2), (4, 4), (6, 3), (5, 2), (12, 5), (100, 2)])
def test_every_step_holds_its_own_rows_in_parts_of_no_more_than_an_even_cut_has(size, parts):
    found = batches.steps(LENGTHS, size, parts)
    for n, step in enumerate(found):
        rows = list(range(n * size, min((n + 1) * size, len(LENGTHS))))
        assert sorted(row for part in step for row in part if row != batches.IDLE) == rows
        assert len(step) == parts
        assert all(part == [batches.IDLE] for part in step[len(rows) :])  # idle only when there are too few rows
        assert sum(part == [batches.IDLE] for part in step) == max(0, parts - len(rows))
        padded = max(len(part) * max(LENGTHS[row] for row in part) for part in step if part != [batches.IDLE])
        assert padded <= -(-len(rows) // parts) * max(LENGTHS[row] for row in rows)
    assert len(found) == -(-len(LENGTHS) // size)


def test_parts_are_as_even_as_can_be():
    assert batches.steps([10, 10, 10, 30], 4, 2) == [[[0, 1, 2], [3]]]
    assert batches.steps([4, 4, 4, 4], 4, 2) == [[[0, 1], [2, 3]]]


def test_logits_are_computed_only_where_they_are_asked_for(tiny):
    model = manifest.load_model(tiny, "float32")
    ids = torch.tensor([[7, 8, 9], [10, 11, 12]])
    wanted = torch.tensor([[False, True], [True, True]])
    where = losses.positions_before(wanted)
    assert where.tolist() == [1, 3, 4]
    with torch.no_grad():
        whole = model(ids).logits
        with trainer.logits_only_at(model, where):
            some = model(ids).logits
        assert model(ids).logits.shape == whole.shape
    torch.testing.assert_close(some, whole[:, :-1][wanted])


class Asked:
    """A base that counts the tokens it is asked about."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tokens = folder, 0

    def __call__(self):
        model = manifest.load_model(self.folder, "float32")
        model.register_forward_pre_hook(
            lambda module, args, kwargs: self.count(int(kwargs["attention_mask"].sum())), with_kwargs=True
        )
        return model

    def count(self, tokens: int) -> None:
        self.tokens += tokens


def test_the_base_s_table_is_what_the_base_says_and_is_asked_once_per_row(tiny, project):
    def table(rows: list[list[int]], k: int = 5, who: str = "a") -> trainer.Table:
        asked.tokens = 0
        store = base_logprobs.Store(who, "float32", k)
        found, forward = base_logprobs.build_table(store, rows, asked)
        assert forward == asked.tokens
        return found

    asked, rows = Asked(tiny), [[7, 8, 9], [10, 11], [7, 9, 9, 12]]
    tokens, logprobs = table(rows)
    assert asked.tokens == 9
    model, start = manifest.load_model(tiny, "float32"), 0
    for ids in rows:
        with torch.no_grad():
            expected = losses.top_k(model(torch.tensor([ids])).logits[0, :-1], 5)
        torch.testing.assert_close(tokens[start + 1 : start + len(ids)].long(), expected[0])
        torch.testing.assert_close(logprobs[start + 1 : start + len(ids)], expected[1], rtol=1e-4, atol=1e-4)
        start += len(ids)
    again = table([rows[2], rows[0]])
    assert asked.tokens == 0
    assert torch.equal(again[0], torch.cat([tokens[5:], tokens[:3]]))
    table([rows[0], [20, 21]])
    assert asked.tokens == 2
    table(rows, k=6)
    assert asked.tokens == 9
    table(rows, who="b")
    assert asked.tokens == 9
