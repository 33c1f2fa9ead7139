"""The launchers by name. Another one is a class with the methods of `interface.Launcher` and a line here."""

from __future__ import annotations

from holdfast.launch.interface import Launcher
from holdfast.launch.kubernetes import Kubernetes, PodShell
from holdfast.launch.settings import Machine
from holdfast.launch.shells import Shell
from holdfast.launch.skypilot import Skypilot
from holdfast.launch.slurm import Slurm
from holdfast.launch.ssh import Ssh


def make_launcher(name: str, machine: Machine) -> Launcher:
    """The launcher of a machine of launch.yaml."""
    if machine.launcher == "kubernetes":
        return Kubernetes(PodShell(machine=name, settings=machine), machine)
    shell = Shell(name, machine.host, machine.ssh_config)
    if machine.launcher == "slurm":
        return Slurm(shell, tuple(machine.options))
    return Skypilot(shell, machine) if machine.launcher == "skypilot" else Ssh(shell)
