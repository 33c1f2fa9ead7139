"""Stand-ins for `kubectl` and `sky`: programs that behave as their documentation says, with local processes as pods and jobs.

Their state is in the folder $FAKE_CLUSTER; `down` in it: nobody answers. What they were called with stands in `calls`.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

COMMON = '''
import json, os, signal, subprocess, sys
from pathlib import Path

STATE = Path(os.environ["FAKE_CLUSTER"])
with (STATE / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")

def refuse(text, code=1):
    print(text, file=sys.stderr)
    sys.exit(code)

def begin(name, command, environment):
    """A process that outlives this one; its exit status goes to NAME.status."""
    text = '"$@"; echo $? > "$STATUS"'
    variables = {**environment, "STATUS": str(STATE / f"{name}.status"), "PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    pipes = dict(stdin=subprocess.DEVNULL, stdout=(STATE / f"{name}.out").open("ab"), stderr=subprocess.STDOUT)
    process = subprocess.Popen(["bash", "-c", text, "-", *command], env=variables, start_new_session=True, **pipes)
    (STATE / f"{name}.pid").write_text(str(process.pid))

def end(name):
    try:
        os.killpg(int((STATE / f"{name}.pid").read_text()), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass

def runs(name):
    if (STATE / f"{name}.status").exists():
        return False
    try:
        os.killpg(int((STATE / f"{name}.pid").read_text()), 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True
'''
KUBECTL = """
arguments = [a for a in sys.argv[1:] if not a.startswith(("--context=", "--namespace="))]
if "--context=wrong" in sys.argv:
    refuse('error: context "wrong" does not exist')
if (STATE / "down").exists():
    refuse("Unable to connect to the server: dial tcp: lookup cluster: no such host")
verb, rest = arguments[0], arguments[1:]

def file_of(kind, name):
    return STATE / f"{kind.lower()}-{name}.json"

def read(kind, name):
    file = file_of(kind, name)
    return json.loads(file.read_text()) if file.exists() else None

def job_status(job):
    name = job["metadata"]["name"]
    if (STATE / "queue-full").exists() and not (STATE / f"{name}.pid").exists():
        job["status"] = {"active": 1}
        return [{"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."}]}]
    if not (STATE / f"{name}.pid").exists():
        container = job["spec"]["template"]["spec"]["containers"][0]
        secrets = {}
        for variable in container.get("env", []):
            reference = variable["valueFrom"]["secretKeyRef"]
            secrets[variable["name"]] = read("Secret", reference["name"])["stringData"][reference["key"]]
        begin(name, container["command"], secrets)
    if runs(name):
        job["status"] = {"active": 1}
        return [{"phase": "Running"}]
    status = STATE / f"{name}.status"
    if status.exists() and status.read_text().strip() == "0":
        job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
        return [{"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}]
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}]}
    return [{"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}]

if verb in ("create", "apply"):
    item = json.loads(sys.stdin.read())
    kind, name = item["kind"], item["metadata"]["name"]
    if verb == "create" and file_of(kind, name).exists():
        refuse(f'Error from server (AlreadyExists): error when creating "STDIN": jobs.batch "{name}" already exists')
    item["metadata"]["uid"] = "5e1f"
    file_of(kind, name).write_text(json.dumps(item))
    if kind == "Job":
        job_status(item)
    print(json.dumps(item))
elif verb == "get" and rest[0] == "pod":
    if read("Pod", rest[1]):
        print("Running", end="")
elif verb == "get":
    name = rest[rest.index("-l") + 1].partition("=")[2]
    job, items = read("Job", name), []
    if job:
        pods = job_status(job)
        items = [job, *({"kind": "Pod", "metadata": {"creationTimestamp": "2026"}, "status": pod} for pod in pods)]
    print(json.dumps({"kind": "List", "items": items}))
elif verb == "wait":
    pass
elif verb == "exec":
    if not read("Pod", rest[1]):
        refuse(f'Error from server (NotFound): pods "{rest[1]}" not found')
    code = subprocess.run(rest[rest.index("--") + 1 :]).returncode
    if code:
        refuse(f"command terminated with exit code {code}", code)
elif verb == "patch":
    secret = read("Secret", rest[1])
    secret["metadata"].update(json.loads(rest[rest.index("--patch") + 1])["metadata"])
    file_of("Secret", rest[1]).write_text(json.dumps(secret))
elif verb == "delete":
    for kind in rest[0].split(","):
        end(rest[1])
        file_of(kind, rest[1]).unlink(missing_ok=True)
else:
    refuse(f'error: unknown command "{verb}" for "kubectl"')
"""
SKY = """
verb, rest = sys.argv[1], sys.argv[2:]
if (STATE / "down").exists():
    refuse("sky.exceptions.ApiServerConnectionError: Could not connect to SkyPilot API server")
jobs = json.loads((STATE / "jobs").read_text()) if (STATE / "jobs").exists() else []
if verb == "launch":
    if "--yes" not in rest:
        refuse("Aborted!")
    (STATE / "up").write_text(rest[rest.index("--cluster") + 1])
    subprocess.run([str(STATE / "start")], check=True)
elif verb == "status":
    print("Clusters")
    if (STATE / "up").exists():
        print("NAME  LAUNCHED  RESOURCES  STATUS  AUTOSTOP")
        print(f"{(STATE / 'up').read_text()}  1 min ago  1x(gpus=H100:8)  \\x1b[32mUP\\x1b[0m  -")
elif not (STATE / "up").exists():
    refuse("sky.exceptions.ClusterDoesNotExist: Cluster does not exist.")
elif verb == "exec":
    variables = {rest[n + 1]: os.environ[rest[n + 1]] for n, word in enumerate(rest) if word == "--secret"}
    name = rest[rest.index("--name") + 1]
    jobs.append(name)
    (STATE / "jobs").write_text(json.dumps(jobs))
    begin(name, ["bash", "-c", rest[-1]], variables)
elif verb == "queue":
    print("Fetching and parsing job queue...")
    if (STATE / "queue-silent").exists():  # as release 0.10.0 does
        print("Failed to get the job queue for cluster 'gpubox'.\\n  ClusterNotUpError: it does not answer")
        sys.exit(0)
    print("ID  NAME  USER  SUBMITTED  STARTED  DURATION  RESOURCES  STATUS  LOG")
    for number, name in reversed(list(enumerate(jobs, 1))):
        done = (STATE / f"{name}.status")
        over = "CANCELLED" if (STATE / f"{name}.cancelled").exists() else "SUCCEEDED" if done.exists() and done.read_text().strip() == "0" else "FAILED"
        print(f"{number}  {name}  me  1 min ago  1 min ago  1m  1x[H100:8]  \\x1b[32m{'RUNNING' if runs(name) else over}\\x1b[0m  ~/sky_logs/{number}")
elif verb == "cancel":
    name = jobs[int(rest[-1]) - 1]
    (STATE / f"{name}.cancelled").touch()
    end(name)
else:
    refuse(f"Error: No such command '{verb}'.", 2)
"""


def install(folder: Path) -> Path:
    """Writes both programs to FOLDER/bin and returns FOLDER/state, where they keep what they know."""
    state, programs = folder / "state", folder / "bin"
    state.mkdir()
    programs.mkdir()
    for name, text in (("kubectl", KUBECTL), ("sky", SKY)):
        file = programs / name
        file.write_text(f"#!{sys.executable}\n{COMMON}{text}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    os.environ["FAKE_CLUSTER"] = str(state)
    return state
