"""The launchers by name. Another one is a class with the methods of `interface.Launcher` and a line here."""

from __future__ import annotations

from holdfast.launch.interface import Launcher
from holdfast.launch.settings import Machine
from holdfast.launch.shells import Shell
from holdfast.launch.slurm import Slurm
from holdfast.launch.ssh import Ssh


def make_launcher(name: str, machine: Machine) -> Launcher:
    """The launcher of a machine of launch.yaml."""
    shell = Shell(name, machine.host, machine.ssh_config)
    if machine.launcher == "slurm":
        return Slurm(shell, tuple(machine.options))
    return Ssh(shell)
