"""What launch.yaml means for the plan: the price of a stage's machine, and how many processes do its shards."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.launch import settings
from holdfast.planning import costs


def find_place(launch: settings.Launch, stage: str) -> settings.Place:
    """`stage`: with its cell, as the plan calls it."""
    script, cell = costs.split_stage(stage)
    return launch.find_place(script, *filter(None, [cell]))


def read_prices(stages: Iterable[str]) -> dict[str, float]:
    """By stage: what an hour costs of the machine that launch.yaml sends it to, or of its jobs' machines."""
    prices = {}
    if launch := settings.load():
        for stage in stages:
            place = find_place(launch, stage)
            machine = launch.machines.get(place.machine)
            if machine and (price := machine.bill(place.jobs)) is not None:
                prices[stage] = price
    return prices


def count_processes(stage: str, processes: int, devices: int) -> int:
    """Processes of all jobs of a stage together. `processes`: of one; `devices`: of one machine, which jobs without a queue divide."""
    launch = settings.load()
    place = find_place(launch, stage) if launch else None
    if launch is None or place is None or place.jobs == 1:
        return processes
    if launch.machines[place.machine].launcher in settings.QUEUES:
        return processes * place.jobs
    return max(processes, min(place.jobs, devices))
