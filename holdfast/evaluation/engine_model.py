"""lm-eval's model class over our own engine: the code that writes and scores is the one that the other stages use.

Tokens of texts, rolling windows and settings stay those of lm-eval's HFLM (prompts: backends.py), so that items and their
hashes do not depend on it. What differs is speed: the choices of a question share the pass over its prompt, rows that
have ended give way to waiting ones, and logits are computed only where a token is scored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from holdfast.core.manifest import Manifest, logits_at_once
from holdfast.engines import local
from holdfast.engines.interface import Sampling, seed_of

WRITES_AS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}  # settings that the engine knows
Scored = tuple[float, bool]  # sum of log-probabilities (nats), and whether greedy decoding would write the same


class Engine(local.Engine):
    """The engine, with completions as HFLM decodes them: without special tokens."""

    def count(self, **tokens: int) -> None:
        """Nothing: resume.py counts what lm-eval asks for."""

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


class Choice(NamedTuple):
    """One continuation of one prompt."""

    request: int  # its place among the requests
    prompt: tuple[int, ...]
    continuation: list[int]


class EngineModel(HFLM):
    def __init__(self, model: Manifest, batch: int, tokenizer: Any, **options: Any) -> None:
        """`model`: whose weights answer; `tokenizer`: with the chat template that prompts are rendered with."""
        self.engine = Engine(model, batch)
        super().__init__(
            pretrained=self.engine.model,
            tokenizer=tokenizer,
            batch_size=batch,
            max_length=model.context,
            device=str(self.engine.device),
            **options,
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text for each request, cut before the first of its stop strings."""
        groups: dict[str, list[int]] = {}
        for n, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(n)
        texts = [""] * len(requests)
        for group in groups.values():
            chosen = [requests[n] for n in group]
            settings = normalize_gen_kwargs(chosen[0].args[1], self.max_gen_toks)
            known = set(settings) <= WRITES_AS and not self.think_end_token and self.engine.joins
            written = (
                self.write([str(one.args[0]) for one in chosen], settings)
                if known
                else super().generate_until(chosen, disable_tqdm)
            )
            for n, text in zip(group, written, strict=True):
                texts[n] = text
        return texts

    def write(self, prompts: list[str], settings: Any) -> list[str]:
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stops = handle_stop_sequences(list(settings["until"]), eos=end)
        ids, attention = self.tok_batch_encode(
            prompts, left_truncate_len=self.max_length - settings["max_gen_toks"], truncation=self.truncation
        )
        rows = [row[on.bool()].tolist() for row, on in zip(ids, attention, strict=True)]
        special = {self.tokenizer.decode([token], skip_special_tokens=False): token for token in self.special_ids()}
        sampling = Sampling(
            temperature=settings["temperature"] if settings["do_sample"] else 0.0,
            top_p=settings.get("top_p", 1.0),
            max_tokens=settings["max_gen_toks"],
            stop_ids=sorted({*self.end_ids(), *(special[text] for text in stops if text in special)}),
            stop_strings=[text for text in stops if text and text not in special],
        )
        done = self.engine.complete(rows, [seed_of("evaluate", *row) for row in rows], sampling)
        return [postprocess_generated_text(one.text, stops, None) for one in done]

    def special_ids(self) -> list[int]:
        added = {n for n, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return sorted({*added, *self.tokenizer.all_special_ids})

    def end_ids(self) -> set[int]:
        """Tokens that end what transformers' `generate` writes."""
        ends = self.model.generation_config.eos_token_id
        return {self.eot_token_id, *([] if ends is None else [ends] if isinstance(ends, int) else ends)}

    @torch.inference_mode()
    def _loglikelihood_tokens(  # type: ignore[override]
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Scored]:
        """Each continuation's log-probability after its prompt. The choices of one prompt pass beside one another."""
        longest = max((len(prompt) + len(answer) for _, prompt, answer in requests), default=0)
        if longest > self.max_length or not self.engine.joins:  # HFLM cuts on the left
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        results: dict[int, Scored] = {}
        for choices in self.batches(requests):
            results.update(self.score(choices))
        return [results[n] for n in range(len(requests))]

    def batches(self, requests: list[tuple[tuple[str, str], list[int], list[int]]]) -> Iterator[list[Choice]]:
        """Whole questions, the longest first: at most `batch` rows whose logits fit into memory, or one question."""
        questions: dict[tuple[int, ...], list[Choice]] = {}
        for n, (_, context, answer) in enumerate(requests):
            questions.setdefault(tuple(context), []).append(Choice(n, tuple(context), answer))
        most = logits_at_once() // self.model.config.get_text_config().vocab_size
        most_tokens = local.TOKENS if self.device.type == "cpu" else 2**31
        batch: list[Choice] = []
        read = scored = 0
        for prompt in sorted(questions, key=lambda prompt: (-len(prompt), prompt)):
            several = questions[prompt]
            more = sum(len(choice.continuation) for choice in several)
            full = len(batch) + len(several) > self.engine.batch or scored + more > most
            if batch and (full or read + len(prompt) + more > most_tokens):
                yield batch
                batch, read, scored = [], 0, 0
            batch += several
            read, scored = read + len(prompt) + more, scored + more
        if batch:
            yield batch

    def score(self, choices: list[Choice]) -> dict[int, Scored]:
        """The choices of a batch, by their place among the requests."""
        prompts = list(dict.fromkeys(choice.prompt for choice in choices))
        place = {prompt: n for n, prompt in enumerate(prompts)}
        read, attention = self.engine.read_prompts(prompts)
        of = torch.tensor([place[choice.prompt] for choice in choices], device=self.device)
        first = read.logits[:, -1].float().log_softmax(-1)[of]  # (R, V), of the first token of each continuation
        parts = [[self.take(first[row], choice.continuation[0])] for row, choice in enumerate(choices)]
        longer = [row for row, choice in enumerate(choices) if len(choice.continuation) > 1]
        if longer:
            for row, rest in zip(longer, self.follow(read, attention, of, choices, longer), strict=True):
                parts[row] += rest
        return {
            choice.request: (sum(value for value, _ in part), all(best for _, best in part))
            for choice, part in zip(choices, parts, strict=True)
        }

    def follow(
        self, read: Any, attention: torch.Tensor, of: torch.Tensor, choices: list[Choice], rows: list[int]
    ) -> Iterator[list[Scored]]:
        """The tokens after the first of the choices in `rows`, each after its prompt's keys and values."""
        cache = copy.copy(read.past_key_values)
        cache.batch_select_indices(of[rows])
        inputs = [choices[row].continuation[:-1] for row in rows]
        width = max(map(len, inputs))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        known = torch.zeros(len(rows), width, dtype=torch.bool)
        for n, tokens in enumerate(inputs):  # right padding: causal attention never looks at it
            ids[n, : len(tokens)], known[n, : len(tokens)] = torch.tensor(tokens), True
        ids, known = ids.to(self.device), known.to(self.device)
        before = attention[of[rows]]  # (R, T)
        positions = before.sum(1, keepdim=True) + torch.arange(width, device=self.device)
        logits = self.model(
            input_ids=ids,
            attention_mask=torch.cat([before, known.long()], dim=1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=known,
        ).logits.float()  # (K, V)
        each = logits.log_softmax(-1).split([len(tokens) for tokens in inputs])
        for row, some in zip(rows, each, strict=True):
            wanted = torch.tensor(choices[row].continuation[1:], device=self.device)
            values, best = some.gather(-1, wanted[:, None])[:, 0], some.argmax(-1) == wanted
            yield list(zip(values.tolist(), best.tolist(), strict=True))

    @staticmethod
    def take(logprobs: torch.Tensor, token: int) -> Scored:
        return float(logprobs[token]), bool(logprobs.argmax() == token)
