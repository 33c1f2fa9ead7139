"""Text from and scores by a model on this machine, with transformers.

Every row draws from its own random stream, seeded by the row, so a sample does not depend on which rows shared its
batch. Finished rows leave the batch and others join it; scoring asks for the logits that are needed and no others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from holdfast.chat import encoding
from holdfast.chat.templates import Messages
from holdfast.core import manifest, meter
from holdfast.core.errors import UserError
from holdfast.engines.decoding import Read, Writing, can_join
from holdfast.engines.interface import SCORES, Completion, Sampling, seed_of

__all__ = ["Completion", "Engine", "sample", "seed_of"]
TOKENS = 1024  # that pass through the model at once on a CPU: more do not fit into a core's cache (benchmarks/speed/synthesis.py)
FREE = 0.25  # part of a batch's places that must be free before waiting rows join


class Engine:
    """One model, loaded. See interface.Engine for what the methods promise."""

    def __init__(self, model: manifest.Manifest, batch: int) -> None:
        folder = model.folder()
        self.manifest, self.batch = model, batch
        self.tokenizer = manifest.load_tokenizer(folder)
        self.model = manifest.load_model(folder, model.dtype)
        self.device = self.model.device

    @cached_property
    def joins(self) -> bool:
        """Whether rows can join others that are being written: asked of a cache that the model itself has made."""
        with torch.inference_mode():
            one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            return can_join(self.model(input_ids=one, use_cache=True, logits_to_keep=1).past_key_values)

    def check_length(self, prompts: Sequence[Sequence[int]], more: int) -> None:
        longest = max(map(len, prompts), default=0)
        if longest + more > self.manifest.context:
            raise UserError(
                f"{longest} prompt tokens and {more} new ones exceed the model's context of {self.manifest.context}",
                where=f"model '{self.manifest.name}'",
                do="lower max_tokens, or curate.max_chars",
            )

    @torch.inference_mode()
    def complete(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """Samples one completion per prompt; temperature 0 is greedy."""
        self.check_length(prompts, sampling.max_tokens)
        temperatures = sampling.temperatures(len(prompts))
        waiting = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i], i))  # equal ones side by side
        uniform = [np.random.default_rng(seed).random(sampling.max_tokens) for seed in seeds]
        written: list[list[int]] = [[] for _ in prompts]
        finished: list[Completion | None] = [None] * len(prompts)
        stops = set(sampling.stop_ids)
        writing: Writing | None = None

        def take(who: list[int], logits: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
            """The next token of each row, (B,), and the places of the rows that go on after it. logits: (B, V)."""
            drawn = np.array([uniform[i][len(written[i])] for i in who])
            heat = torch.tensor([temperatures[i] for i in who], dtype=torch.float32, device=self.device)
            tokens = sample(logits.float(), drawn, heat, sampling.top_p, sampling.min_p)
            for i, token in zip(who, tokens.tolist(), strict=True):
                if token in stops:
                    finished[i] = self._completion(written[i], "stop")
                    continue
                written[i].append(token)
                if sampling.stop_strings and (text := self._cut_at_stop(written[i], sampling.stop_strings)) is not None:
                    finished[i] = Completion(text, "stop", len(written[i]))
                elif len(written[i]) == sampling.max_tokens:
                    finished[i] = self._completion(written[i], "length")
            return tokens, [place for place, i in enumerate(who) if finished[i] is None]

        while waiting or writing:
            free = self.batch - (len(writing.who) if writing else 0)
            if waiting and (writing is None or (free >= self.batch * FREE and self.joins)):
                rows, waiting = waiting[:free], waiting[free:]
                for read in self._read(prompts, rows):
                    tokens, going = take(read.who, read.logits[read.of])
                    read.who, read.of = [read.who[place] for place in going], read.of[going]
                    if going and writing:
                        writing.join(read, tokens[going])
                    elif going:
                        writing = Writing(read, tokens[going], min(self.batch, len(prompts)), self.joins)
                continue
            assert writing is not None
            writing.tokens, going = take(writing.who, writing.step(self.model))
            if going:
                writing.keep(going)
            else:
                writing = None
        completions = [done for done in finished if done is not None]
        self.count(written=sum(done.n_tokens + (done.finish_reason == "stop") for done in completions))
        return completions

    def _read(self, prompts: Sequence[list[int]], rows: list[int]) -> Iterator[Read]:
        """Has the model read the prompts of these rows, equal ones once: all in one batch, or, on a CPU, few tokens at a time."""
        distinct: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            distinct.setdefault(tuple(prompts[row]), []).append(row)
        read, computed = sum(len(prompts[row]) for row in rows), sum(map(len, distinct))
        self.count(read=read, reused=read - computed)
        lengths = list(map(len, distinct))
        parts = list(self._batches(lengths, [1] * len(lengths))) if self.joins else [list(range(len(lengths)))]
        several = list(distinct)
        for part in (
            [several[n] for n in numbers] for numbers in reversed(parts)
        ):  # the longest first: room is made once
            out, attention = self.read_prompts(part)
            who = [row for prompt in part for row in distinct[prompt]]
            of = [n for n, prompt in enumerate(part) for _ in distinct[prompt]]
            yield Read(who, torch.tensor(of, device=self.device), out.past_key_values, attention, out.logits[:, -1])

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, torch.Tensor]:
        """(the model's output after one pass: keys and values, and the logits of the last token, (B, 1, V); the attention mask,
        (B, T), of prompts padded on the left)."""
        ids, attention = self._pad_left([list(prompt) for prompt in prompts])  # (B, T)
        output = self.model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        return output, attention

    def count(self, **tokens: int) -> None:
        meter.count(self.manifest.parameters, **tokens)

    def _completion(self, tokens: list[int], finish_reason: str) -> Completion:
        return Completion(self._decode(tokens), finish_reason, len(tokens))

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def _cut_at_stop(self, tokens: list[int], stop_strings: Sequence[str]) -> str | None:
        text = self._decode(tokens)
        cuts = [text.find(s) for s in stop_strings if s in text]
        return text[: min(cuts)] if cuts else None

    @torch.inference_mode()
    def next_token(self, prompts: Sequence[list[int]], choices: Sequence[int]) -> np.ndarray:
        """Probability of each choice as the next token, (N, len(choices)), by one forward pass per prompt."""
        self.check_length(prompts, 1)
        probabilities = np.zeros((len(prompts), len(choices)))
        pick = torch.tensor(list(choices), device=self.device)
        shared, head = self._read_shared_start(prompts)
        for rows in self._batches([len(p) - shared for p in prompts], [1] * len(prompts)):
            ids, attention = self._pad_left([prompts[i][shared:] for i in rows])
            cache = copy.deepcopy(head)
            if cache is not None:
                cache.batch_repeat_interleave(len(rows))
            attention = torch.cat([attention.new_ones(len(rows), shared), attention], dim=1)
            positions = (attention.cumsum(1) - 1).clamp(min=0)[:, shared:]
            out = self.model(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=1,
            )
            probabilities[rows] = out.logits[:, -1].float().softmax(-1)[:, pick].cpu().numpy()
        self.count(read=sum(map(len, prompts)), reused=shared * max(len(prompts) - 1, 0))
        return probabilities

    def _read_shared_start(self, prompts: Sequence[list[int]]) -> tuple[int, DynamicCache | None]:
        """How many tokens all prompts begin with (a rubric's head), and the model's keys and values of them, computed once."""
        if len(prompts) < 2:
            return 0, None
        first, last = min(prompts), max(prompts)  # what these two share, all that lie between them share
        longest = min(map(len, prompts)) - 1  # a token of its own is left to each
        shared = next((n for n in range(longest) if first[n] != last[n]), longest)
        if shared == 0:
            return 0, None
        ids = torch.tensor([first[:shared]], device=self.device)
        return shared, self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    @torch.inference_mode()
    def logprob(self, prompts: Sequence[list[int]], continuations: Sequence[list[int]]) -> list[float]:
        """Mean log-probability (nats) per token of each continuation after its prompt."""
        whole = [p + c for p, c in zip(prompts, continuations, strict=True)]
        self.check_length(whole, 0)
        self.count(read=sum(map(len, whole)))
        means = [0.0] * len(whole)
        for rows in self._batches([len(w) for w in whole], [len(c) for c in continuations]):
            width = max(len(whole[i]) for i in rows)
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            before = torch.zeros(len(rows), width, dtype=torch.bool)  # where a continuation's token comes next
            for row, i in enumerate(rows):  # right padding: causal attention never looks at it
                ids[row, : len(whole[i])] = torch.tensor(whole[i])
                before[row, max(len(prompts[i]), 1) - 1 : len(whole[i]) - 1] = True
            ids, before = ids.to(self.device), before.to(self.device)
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=before).logits.float()  # (K, V)
            taken = logits.log_softmax(-1).gather(-1, ids.roll(-1, 1)[before][:, None]).squeeze(-1)  # (K,)
            counts = before.sum(1).tolist()
            for i, count, each in zip(rows, counts, taken.split(counts), strict=True):
                means[i] = float(each.sum()) / max(count, 1)
        return means

    def answer(self, chats: Sequence[Messages], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        stops = encoding.assistant_stop_ids(self.tokenizer)
        return self.complete(self._prompts(chats), seeds, replace(sampling, stop_ids=stops))

    def lengths(self, chats: Sequence[Messages]) -> list[int]:
        return [len(ids) for ids in self._prompts(chats)]

    def scores(self, chats: Sequence[Messages], attempts: int = 3) -> np.ndarray:
        return self.next_token(self._prompts(chats), self._score_tokens())

    def _score_tokens(self) -> list[int]:
        """The token of each digit as the assistant would write it first."""
        tokens = [encoding.tokenise(self.tokenizer, digit) for digit in SCORES]
        if any(len(t) != 1 for t in tokens) or len({t[0] for t in tokens}) != 5:
            raise UserError(
                "the tokenizer has no single token for each of 1 to 5",
                where=f"model '{self.manifest.name}'",
                do="leave it out of the panel",
            )
        return [t[0] for t in tokens]

    def likelihood(
        self, chats: Sequence[Messages], answers: Sequence[str], thinking: bool | None = None
    ) -> list[float]:
        end = encoding.assistant_stop_ids(self.tokenizer)[:1]
        written = [encoding.tokenise(self.tokenizer, self.escape_special_tokens(text)) + end for text in answers]
        return self.logprob(self._prompts(chats, thinking), written)

    def _prompts(self, chats: Sequence[Messages], thinking: bool | None = None) -> list[list[int]]:
        """Token ids of each chat up to where the assistant speaks, with escaped contents."""
        escaped = (encoding.escape_messages(self.tokenizer, chat) for chat in chats)
        return [encoding.prompt_ids(self.tokenizer, chat, None, thinking) for chat in escaped]

    def escape_special_tokens(self, text: str) -> str:
        return encoding.escape_special_tokens(self.tokenizer, text)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Mean of the last hidden states over each text's tokens, (N, hidden), scaled to unit length."""
        escaped = [self.escape_special_tokens(text) for text in texts]
        ids = [encoding.tokenise(self.tokenizer, text)[: self.manifest.context] for text in escaped]
        self.count(read=sum(map(len, ids)))
        vectors = np.zeros((len(texts), self.model.config.get_text_config().hidden_size), dtype=np.float32)
        for rows in self._batches([len(i) for i in ids]):
            tokens, attention = self._pad_left([ids[i] for i in rows])
            positions = (attention.cumsum(1) - 1).clamp(min=0)
            out = self.model.base_model(
                input_ids=tokens, attention_mask=attention, position_ids=positions, use_cache=False
            )
            weight = attention[..., None].float()  # (B, T, 1)
            mean = (out.last_hidden_state.float() * weight).sum(1) / weight.sum(1).clamp(min=1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return vectors

    def _batches(self, lengths: list[int], logits: list[int] | None = None) -> Iterator[list[int]]:
        """Row numbers in batches of similar length: padding costs as much as text. `logits`: positions of each row whose
        logits are computed. Then a batch has at most manifest.logits_at_once() of them, and on a CPU TOKENS tokens; or one row."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        most = manifest.logits_at_once() // self.model.config.get_text_config().vocab_size
        tokens = TOKENS if logits and self.device.type == "cpu" else math.inf
        rows: list[int] = []
        held = 0
        for i in order:
            more = logits[i] if logits else 0
            full = len(rows) == self.batch or held + more > most or (len(rows) + 1) * lengths[i] > tokens
            if rows and full:
                yield rows
                rows, held = [], 0
            rows.append(i)
            held += more
        if rows:
            yield rows

    def _pad_left(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(1, *map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        attention = torch.zeros(len(rows), width, dtype=torch.long)
        for row, tokens in enumerate(rows):
            if tokens:
                ids[row, -len(tokens) :] = torch.tensor(tokens)
                attention[row, -len(tokens) :] = 1
        return ids.to(self.device), attention.to(self.device)


def sample(
    logits: torch.Tensor, uniform: np.ndarray, temperature: torch.Tensor, top_p: float, min_p: float = 0.0
) -> torch.Tensor:
    """Inverse-CDF sampling: one uniform number per row decides, (B, V) and (B,) and (B,) to token ids (B,).

    top_p keeps the smallest set of tokens whose probability reaches it (Holtzman et al., arXiv 1904.09751, sec. 3.1);
    min_p those that have at least this part of the most probable one (Nguyen et al., arXiv 2407.01082, sec. 3).
    Both look at the probabilities after the temperature.
    """
    greedy = temperature <= 0
    if bool(greedy.all()):
        return logits.argmax(-1)
    probabilities = (logits / temperature.clamp(min=1e-6)[:, None]).softmax(-1)  # (B, V)
    if top_p < 1:
        ordered, tokens = probabilities.sort(-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
        probabilities = ordered.new_zeros(ordered.shape).scatter(-1, tokens, ordered)
    if min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), 0)
    # Tokens stand by id, not by rank: rounding, which depends on the batch, may swap ranks but not ids.
    u = torch.as_tensor(uniform, dtype=torch.float32, device=logits.device)[:, None].clamp(min=1e-20)  # (B, 1), above 0
    cumulative = probabilities.cumsum(-1)
    drawn = torch.searchsorted(cumulative, u * cumulative[:, -1:]).clamp(max=logits.shape[-1] - 1).squeeze(-1)
    return torch.where(greedy, logits.argmax(-1), drawn)
