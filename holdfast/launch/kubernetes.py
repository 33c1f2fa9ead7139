"""A cluster under Kubernetes: a Job for each submission, by kubectl. Files lie on a PersistentVolumeClaim, and a small pod that
mounts it is the shell.

A Job's name is ours, so that no second one of it can be created. Pods that the cluster disrupts (preemption, eviction, a drained node)
are replaced by the Job itself and go on from their caches: https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from holdfast.core.errors import UserError
from holdfast.launch.interface import EXIT_WIDTH, Job, Phase, State, describe_end, read_exit
from holdfast.launch.settings import Machine
from holdfast.launch.shells import Shell, Unreachable, call

LABEL = "holdfast/job"  # of a Job and its pods
CONTAINER = "stage"  # beside those that a cluster adds, such as a service mesh's
KEEP = 7 * 86400  # seconds that an ended Job stays in the cluster; its files stay
LAG = 20  # seconds until what a pod has written to the claim is seen by another
START = 600  # seconds that the pod of the files may take to start
ENDED_BY_ITSELF = "command terminated with exit code"  # kubectl exec's line for a command that failed in the pod


@dataclass(frozen=True, kw_only=True)
class PodShell(Shell):
    """The shell of the pod that mounts the claim."""

    settings: Machine

    @property
    def pod(self) -> str:
        own = (self.settings.claim, self.settings.image, self.settings.mount)
        return f"holdfast-files-{hashlib.sha256(repr(own).encode()).hexdigest()[:8]}"

    def command(self, text: str) -> list[str]:
        return ["kubectl", *self.settings.options, "exec", "-i", self.pod, "-c", CONTAINER, "--", "sh", "-c", text]

    def describe(self, code: int, message: str) -> UserError:
        lines = message.splitlines()
        if any(line.startswith(ENDED_BY_ITSELF) for line in lines):
            return super().describe(code, "\n".join(line for line in lines if not line.startswith(ENDED_BY_ITSELF)))
        last = lines[-1][:300] if lines else f"exit code {code}"
        do = f"try `{shlex.join(['kubectl', *self.settings.options, 'get', 'pod', self.pod])}`; then run it again"
        return Unreachable(f"cannot be reached ({last})", where=f"machine {self.machine}", do=do)


@dataclass(frozen=True)
class Kubernetes:
    shell: PodShell
    machine: Machine
    interval: float = 5.0

    def prepare(self) -> None:
        """Starts the pod of the files."""
        pod = self.shell.pod
        try:
            phase = self._call("get", "pod", pod, "--ignore-not-found", "-o", "jsonpath={.status.phase}").decode()
        except UserError as error:
            raise Unreachable(
                f"cannot be reached ({error.what})", where=error.where, do="correct 'options', or your kubeconfig"
            ) from None
        if phase == "Running":
            return
        if phase in ("Succeeded", "Failed", "Unknown"):
            self._call("delete", "pod", pod, "--ignore-not-found")
        container = self._container(["sleep", "infinity"])
        container["resources"] = {"requests": {"cpu": "100m", "memory": "128Mi"}}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": self._spec(container)}
        self._call("apply", "-f", "-", give=manifest)
        self._call("wait", "--for=condition=Ready", f"pod/{pod}", f"--timeout={START}s")

    def submit(self, job: Job, secrets: dict[str, str]) -> str:
        name = name_of(job)
        self.shell.run(f"{job.enter} && [ -f log ] || {{ : > log; printf '%-{EXIT_WIDTH}s' '' > exit; }}")
        if secrets:
            self._create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": secrets})
        created = self._create(self._job(job, list(secrets)))
        if secrets and created:  # it goes with the Job
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": created["metadata"]["uid"]}
            patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
            self._call("patch", "secret", name, "--patch", patch)
        self.shell.run(f"{job.enter} && echo {name} > id")
        return name

    def poll(self, job: Job) -> State:
        try:
            listing = json.loads(self._call("get", "jobs,pods", "-l", f"{LABEL}={name_of(job)}", "-o", "json"))
        except UserError as error:
            raise Unreachable(error.what, where=error.where, do="the job goes on; run it again later") from None
        jobs = [item for item in listing["items"] if item["kind"] == "Job"]
        pods = [item for item in listing["items"] if item["kind"] == "Pod"]
        conditions = {
            condition["type"]: condition
            for item in jobs
            for condition in item.get("status", {}).get("conditions") or []
            if condition["status"] == "True"
        }
        if jobs and not {"Complete", "Failed"} & conditions.keys():
            return describe_pods(pods, "Suspended" in conditions)
        patience = LAG if "Complete" in conditions else 0  # then job.sh has come to its end, and has written a code
        script = f"""{job.enter} 2>/dev/null || exit 0; [ -f id ] && echo submitted || echo not
n=0; while [ $n -lt {patience} ] && [ -z "$(tr -d ' ' < exit)" ]; do sleep 1; ls > /dev/null; n=$((n + 1)); done
cat exit 2>/dev/null || true"""
        first, _, rest = self.shell.run(script).decode(errors="replace").partition("\n")
        if (code := read_exit(rest)) is not None:
            return describe_end(code)
        if not jobs and first != "submitted":
            return State(Phase.ABSENT)
        failure = conditions.get("Failed", {})
        reasons = [failure.get("message") or failure.get("reason", ""), *map(describe_pod_end, pods)]
        why = "; ".join(reason for reason in reasons if reason) or (
            "it left no exit code" if jobs else "the Job was deleted"
        )
        return State(Phase.KILLED, why=why[:300])

    def cancel(self, job: Job) -> None:
        self._call("delete", "job,secret", name_of(job), "--ignore-not-found")

    def _create(self, manifest: dict[str, Any]) -> dict[str, Any] | None:
        """The object; None where a command that was killed has created it already."""
        try:
            created: dict[str, Any] = json.loads(self._call("create", "-f", "-", "-o", "json", give=manifest))
        except UserError as error:
            if "AlreadyExists" in error.what:
                return None
            raise
        return created

    def _call(self, *arguments: str, give: dict[str, Any] | None = None) -> bytes:
        manifest = json.dumps(give).encode() if give else b""
        return call(self.shell.machine, ["kubectl", *self.machine.options, *arguments], manifest)

    def _container(self, command: list[str]) -> dict[str, Any]:
        mounts = [
            {"name": "holdfast", "mountPath": self.machine.mount},
            {"name": "holdfast-shm", "mountPath": "/dev/shm"},  # noqa: S108 (of the container)
        ]
        return {"name": CONTAINER, "image": self.machine.image, "command": command, "volumeMounts": mounts}

    def _spec(self, container: dict[str, Any]) -> dict[str, Any]:
        own = [
            {"name": "holdfast", "persistentVolumeClaim": {"claimName": self.machine.claim}},
            {"name": "holdfast-shm", "emptyDir": {"medium": "Memory"}},  # 64 MiB otherwise, too little for NCCL
        ]
        volumes = [*self.machine.pod.get("volumes", []), *own]
        return {**self.machine.pod, "volumes": volumes, "containers": [container], "restartPolicy": "Never"}

    def _job(self, job: Job, secrets: list[str]) -> dict[str, Any]:
        name = name_of(job)
        container = self._container(["bash", "-l", f"{job.place}/job.sh"])
        container["resources"] = {"limits": dict(self.machine.limits)}
        container["env"] = [{"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}} for key in secrets]
        disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        labels = {**self.machine.labels, LABEL: name}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "backoffLimit": 0,
                "podFailurePolicy": {"rules": [disrupted]},
                "ttlSecondsAfterFinished": KEEP,
                "template": {"metadata": {"labels": {LABEL: name}}, "spec": self._spec(container)},
            },
        }


def name_of(job: Job) -> str:
    """The token as a name of Kubernetes: at most 63 lower-case letters, digits and dashes. It ends with the token's random part."""
    return re.sub(r"[^a-z0-9-]+", "-", job.token.lower())[-63:].strip("-")


def describe_pods(pods: list[dict[str, Any]], suspended: bool) -> State:
    """Of a Job that has not ended: whether its newest pod runs, else what it waits for."""
    if not pods:
        return State(Phase.WAITING, why="suspended by its queue" if suspended else "")
    status = max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", ""))["status"]
    if status.get("phase") != "Pending":
        return State(Phase.RUNNING)
    waiting = [container.get("state", {}).get("waiting", {}) for container in status.get("containerStatuses") or []]
    reasons = [entry for entry in [*waiting, *(status.get("conditions") or [])] if entry.get("message")]
    return State(Phase.WAITING, why=f"{reasons[0].get('reason')}: {reasons[0]['message']}"[:200] if reasons else "")


def describe_pod_end(pod: dict[str, Any]) -> str:
    """Such as OOMKilled."""
    ends = [one.get("state", {}).get("terminated", {}) for one in pod["status"].get("containerStatuses") or []]
    return "; ".join(str(end["reason"]) for end in ends if end.get("reason") not in (None, "Completed"))
