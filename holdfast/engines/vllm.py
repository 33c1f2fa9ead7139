"""Text from and scores by a model that vLLM runs, in this process. An optional extra: imported only when asked for.

What goes in are the very tokens that the transformers engine gets, each request with its own seed; what comes out are
tokens that our tokenizer reads. vLLM does the rest: continuous batching, paged keys and values, shared prefixes once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from holdfast.core import manifest
from holdfast.core.errors import UserError, first_line
from holdfast.engines import local
from holdfast.engines.interface import Completion, Sampling

LESS = "lower vllm.max_model_len, or change vllm.gpu_memory_utilization or vllm.tensor_parallel_size"


class Engine(local.Engine):
    """One model in vLLM: the transformers engine with another way to `complete`, `next_token` and `logprob`.

    It does not embed: stages that need hidden states load the weights with transformers. See interface.Engine for what
    the methods promise. Raises UserError where vLLM is not installed, finds no GPU, or has too little memory.
    """

    def __init__(self, model: manifest.Manifest, batch: int) -> None:
        settings = model.vllm
        assert settings is not None
        folder, self.batch = model.folder(), batch
        self.manifest = replace(model, context=min(settings.max_model_len or model.context, model.context))
        self.tokenizer = manifest.load_tokenizer(folder)
        self.where = f"model '{model.name}'"
        self.vllm = import_vllm(self.where)
        auto = (
            "float32" if manifest.find_device().type == "cpu" else "bfloat16"
        )  # as elsewhere; vLLM's own may be float16
        try:
            self.llm = self.vllm.LLM(
                model=str(folder),
                dtype=auto if model.dtype == "auto" else model.dtype,
                max_model_len=self.manifest.context,
                tensor_parallel_size=settings.tensor_parallel_size,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                enforce_eager=settings.enforce_eager,
                enable_prefix_caching=True,
                generation_config="vllm",
                trust_remote_code=False,
                seed=0,
            )
        except (ValueError, RuntimeError) as error:  # too little memory, too few GPUs, an architecture it does not know
            raise UserError(f"vLLM does not start ({first_line(error)})", where=self.where, do=LESS) from None

    def complete(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        self.check_length(prompts, sampling.max_tokens)
        requests = [
            self.sampling_params(
                seed=seed,
                temperature=temperature,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                max_tokens=sampling.max_tokens,
                stop_token_ids=list(sampling.stop_ids),
                stop=list(sampling.stop_strings),
                detokenize=bool(sampling.stop_strings),
                skip_special_tokens=False,
            )
            for seed, temperature in zip(seeds, sampling.temperatures(len(prompts)), strict=True)
        ]
        completions = []
        for output in self.generate(prompts, requests):
            done, stops = output.outputs[0], set(sampling.stop_ids)
            tokens = [token for token in done.token_ids if token not in stops]  # the one that ended it is among them
            text = self._cut_at_stop(tokens, sampling.stop_strings) if sampling.stop_strings else None
            finish_reason = "stop" if done.finish_reason == "stop" or text is not None else "length"
            completions.append(Completion(self._decode(tokens) if text is None else text, finish_reason, len(tokens)))
        return completions

    def next_token(self, prompts: Sequence[list[int]], choices: Sequence[int]) -> np.ndarray:
        """Probability of each choice as the next token, (N, len(choices)), exact: these tokens and no others are asked for."""
        self.check_length(prompts, 1)
        requests = [
            self.sampling_params(max_tokens=1, logprob_token_ids=list(choices), detokenize=False) for _ in prompts
        ]
        probabilities = np.zeros((len(prompts), len(choices)))
        for row, output in zip(probabilities, self.generate(prompts, requests), strict=True):
            [first] = output.outputs[0].logprobs
            row[:] = [np.exp(first[choice].logprob) for choice in choices]
        return probabilities

    def logprob(self, prompts: Sequence[list[int]], continuations: Sequence[list[int]]) -> list[float]:
        """Mean log-probability (nats) per token of each continuation after its prompt."""
        whole = [p + c for p, c in zip(prompts, continuations, strict=True)]
        self.check_length(whole, 1)  # vLLM always writes a token
        requests = [self.sampling_params(max_tokens=1, prompt_logprobs=0, detokenize=False) for _ in whole]
        means = []
        for output, prompt, ids in zip(self.generate(whole, requests), prompts, whole, strict=True):
            each = [output.prompt_logprobs[at][ids[at]].logprob for at in range(len(prompt), len(ids))]
            means.append(sum(each) / max(len(each), 1))
        return means

    def sampling_params(self, **fields: Any) -> Any:
        """vLLM's parameters of one request. The end of text is one of our stop tokens, or no end."""
        return self.vllm.SamplingParams(ignore_eos=True, **fields)

    def generate(self, prompts: Sequence[list[int]], requests: list[Any]) -> list[Any]:
        """vLLM's outputs, one per prompt, in order."""
        if not prompts:
            return []
        try:
            outputs = self.llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], requests, use_tqdm=False)
        except torch.OutOfMemoryError:  # log-probabilities of long prompts need memory beside what vLLM holds
            do = "lower vllm.gpu_memory_utilization"
            raise UserError("the GPU's memory is full", where=self.where, do=do) from None
        # What its cache of shared prefixes saved is not told apart: operations are those of every token.
        self.count(read=sum(map(len, prompts)), written=sum(len(output.outputs[0].token_ids) for output in outputs))
        return outputs


def import_vllm(where: str) -> Any:
    """The module `vllm`, told to stay in this process and at home. Raises UserError if it is missing or has no device."""
    # In this process its scheduler takes requests in a fixed order, and nothing is left on the GPU after a kill.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        do = "install it (docs/engines.md), or remove 'vllm' from the model's entry in params.yaml"
        raise UserError(f"vLLM is not installed ({first_line(error)})", where=where, do=do) from None
    if manifest.find_device().type == "cpu" and not current_platform.is_cpu():
        do = "run it where there is one, or remove 'vllm' from the model's entry: transformers runs on the CPU"
        raise UserError("vLLM finds no GPU here", where=where, do=do)
    return vllm
