"""The weights at both ends of a repair, and the repaired model as a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from holdfast.core import checkpoint, checkpoint_files, manifest, storage
from holdfast.core.errors import CannotCompare
from holdfast.core.progress import Progress
from holdfast.repair import deltas
from holdfast.repair.deltas import Method

Weights = dict[str, torch.Tensor]


@dataclass
class Ends:
    """The base's weights, and the base's plus what a method keeps of the tuning. Read when first needed."""

    base_folder: Path
    tuned_folder: Path
    method: Method
    density: float  # of trim
    counts: dict[str, int] = field(default_factory=dict)  # what is kept of the change, and of how much

    @cached_property
    def base(self) -> Weights:
        return read_weights(self.base_folder)

    @cached_property
    def end(self) -> Weights:
        tuned, units, of, ends = read_weights(self.tuned_folder), 0, 0, Weights()
        if other := sorted(
            name for name in tuned if name not in self.base or self.base[name].shape != tuned[name].shape
        ):
            what = f"has other tensors than the base ({other[0][:100]})"
            raise CannotCompare(what, where=self.tuned_folder, do="give the base that it was tuned from")
        progress = Progress(self.method, len(tuned), "tensors")
        for name, weight in tuned.items():
            base = self.base[name]
            difference = weight.float() - base.float()
            if bool(difference.any()):
                part = deltas.keep(self.method, difference, self.density)
                units, of = units + part.units, of + part.of
                weight = weight if part.delta is difference else (base.float() + part.delta).to(weight.dtype)
            ends[name] = weight
            progress.advance(1)
        progress.close()
        self.counts = {"kept": units, "of": of}
        return ends


def read_weights(folder: Path) -> Weights:
    """The parameters of a model as they are stored, those that are shared once."""
    return {name: weight.detach() for name, weight in load_stored(folder).named_parameters()}


def load_stored(folder: Path) -> torch.nn.Module:
    kind = str(checkpoint.read_config(folder).dtype or "float32").removeprefix("torch.")
    return manifest.load_model(folder, kind, device="cpu")


def find_between(ends: Ends, part: float) -> Weights:
    """The weights at this part of the way, as the tuned model stores them."""
    return {name: deltas.go_along(ends.base[name], end, part) for name, end in ends.end.items()}


def load_with(weights: Weights, like: Path) -> torch.nn.Module:
    """The model in the folder `like`, in fp32 on the CPU, with other weights."""
    network = manifest.load_model(like, "float32", device="cpu")
    put(weights, network)
    return network


def put(weights: Weights, network: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(weights[name])


def save_model(weights: Weights, like: Path, into: Path) -> None:
    """Writes a model with these weights, and all else as the one in the folder `like` has it; reads it back to see that it is what was
    meant."""
    network = load_stored(like)
    put(weights, network)
    own = {checkpoint_files.INDEX, *checkpoint_files.list_weights(like)}
    with storage.replacing_folder(into) as partial:
        network.save_pretrained(partial)  # type: ignore[operator]
        for name in checkpoint_files.list_files(like):
            if name not in own and not (partial / name).exists():
                shutil.copyfile(like / name, partial / name)
        for file in partial.iterdir():
            file.chmod(0o644)
        checkpoint.check_folder(partial)
        manifest.load_tokenizer(partial)
        again, meant = read_weights(partial), dict(network.named_parameters())
        if again.keys() != meant.keys() or not all(torch.equal(again[name], meant[name]) for name in meant):
            raise RuntimeError("the repaired model reads back as another one")
