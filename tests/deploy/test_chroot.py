"""The files of `deploy/` on a Debian of its own: the commands of the guide, of the unit and of the Dockerfile, as they
stand there.

What systemd or a container engine would set up around the server is set up with what the kernel has: a root that can
only be read, folders of its own, no capabilities, system calls by systemd's own list.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ports import free_port

from mdashcore.server.config import load_config

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/how_to_guides/deploy_with_systemd.md"

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1200)]

PATIENCE = 60.0  # seconds for a message of the server

IMAGE = bytes([0xE9]) + os.urandom(1_000_000)  # a bare image of an ESP32


@pytest.fixture
def manager():
    """An abstract socket, which is seen from other mount namespaces: what is sent to it, message by message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0mdash-{os.getpid()}")
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

        def receive():
            while True:
                message = sock.recv(4096).decode()
                if message != "WATCHDOG=1":
                    return dict(line.split("=", 1) for line in message.split("\n"))

        receive.address = f"@mdash-{os.getpid()}"
        receive.socket = sock
        yield receive


@contextmanager
def running(process):
    """The process, which is ended with its context; what it said is shown if the test fails."""
    try:
        yield process
    except BaseException:
        process.kill()
        print(process.communicate()[0])  # noqa: T201
        raise
    else:
        process.kill()
        process.communicate()


def system_calls(names):
    """The system calls of systemd's sets: ``@system-service``, and without those that begin with ``~``."""
    allowed = set()
    for name in names:
        found = set()
        left = [name.removeprefix("~")]
        while left:
            lines = subprocess.run(
                ["systemd-analyze", "--no-pager", "syscall-filter", left.pop()],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
            words = {line.strip() for line in lines[1:] if line.strip() and not line.strip().startswith("#")}
            left += [word for word in words if word.startswith("@")]
            found |= {word for word in words if not word.startswith("@")}
        allowed = allowed - found if name.startswith("~") else allowed | found
    return sorted(allowed)


def status(pid):
    """What the kernel says of a process, by name."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def mounted(pid, path):
    """The options with which the file system of a path is mounted for a process."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines()
    return {fields[4]: fields[5].split(",") for fields in map(str.split, lines)}[path]


def use(url, password):
    """Register a device, and store an image for it: the state of the server that a restart has to keep."""
    with httpx.Client(base_url=f"{url}/api/v2", auth=("admin", password), timeout=30) as client:
        assert client.post("/devices", json={"id": "lamp"}).status_code == 201
        answer = client.post("/devices/lamp/ota?queue=1&bare=1", files={"file": ("fw.bin", IMAGE)})
        assert answer.status_code == 202, answer.text


def test_the_service(make_machine, wheels, manager):
    """Installed by the commands of the guide, started as its user with the protections of the unit: it can do all that
    it has to, and says how it is; a reload, an end, and another start."""
    machine = make_machine("service")
    machine.run("apt-get update -qq; apt-get install -qq --yes --no-install-recommends python3 python3-venv")
    guide = GUIDE.read_text(encoding="utf-8")
    (wheel,) = wheels.glob("mdashcore-*.whl")
    for file in (ROOT / "deploy/mdash.service", ROOT / "deploy/mdash.toml", wheel):
        shutil.copy(file, machine.root)
    for mark in ("service", "first user"):
        (lines,) = re.findall(rf"^<!-- test: {mark} -->\n```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
        machine.run(f"cd /\n{lines}")
    password = load_config(machine.root / "etc/mdash/mdash.toml").users[0].password

    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(machine.root / "etc/systemd/system/mdash.service")
    service = unit["Service"]
    filters = re.findall(r"^SystemCallFilter=(\S+)$", (ROOT / "deploy/mdash.service").read_text(), re.MULTILINE)
    state = f"var/lib/{service['StateDirectory']}"
    machine.run(f"install --directory --mode={service['StateDirectoryMode']} --owner={service['User']} /{state}")
    shutil.copy(Path(__file__).with_name("confined.py"), machine.root)
    profile = {
        "user": service["User"],
        "system_calls": system_calls(filters),
        "refuse_new_code": service["MemoryDenyWriteExecute"] == "yes" and has_mdwe(),
    }
    (machine.root / "profile.json").write_text(json.dumps(profile))
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000", "MDASH_BIND": "127.0.0.1:0"}
    command = ["/usr/bin/python3", "/confined.py", "/profile.json", *shlex.split(service["ExecStart"])]
    proc = f"hidepid={service['ProtectProc']}"

    def start():
        return running(machine.start(*command, writable=state, environment=environment, proc=proc))

    with start() as process:
        ready = manager()
        assert ready["READY"] == "1"
        url = ready["STATUS"].removeprefix("Listening on ")
        found = status(process.pid)
        assert "0" not in found["Uid"].split()
        assert int(found["CapBnd"], 16) == int(found["CapEff"], 16) == 0
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert "ro" in mounted(process.pid, "/")
        use(url, password)
        process.send_signal(signal.SIGHUP)
        assert manager()["RELOADING"] == "1"
        assert manager()["READY"] == "1"
        process.send_signal(signal.SIGTERM)
        assert manager()["STOPPING"] == "1"
        assert process.wait(int(service["TimeoutStopSec"])) == 0
    with start() as process:
        url = manager()["STATUS"].removeprefix("Listening on ")
        found = httpx.get(f"{url}/api/v2/devices/lamp/ota", auth=("admin", password)).json()
        assert (found["state"], found["image"]["size"]) == ("QUEUED", len(IMAGE))
    files = [path for path in (machine.root / state).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.stat().st_mode & 0o077], "others can read"


def has_mdwe():
    """Whether this kernel can refuse to make written memory executable by itself: from 6.3 on."""
    return tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 3)


def instructions(text):
    """The instructions of a Dockerfile: name and rest."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def build(make_machine):
    """Do what a Dockerfile says: the last stage, and what it says of the container."""
    stages, stage, said = {}, None, {"ENV": {}}
    for name, rest in instructions((ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")):
        words = shlex.split(rest) if name in ("FROM", "COPY", "ENV") else []
        match name:
            case "FROM":
                assert words[0] == "debian:bookworm-slim"
                stage = make_machine(f"stage{len(stages)}")
                stages[words[2] if len(words) == 3 else ""] = stage
            case "RUN":
                stage.run(rest)
            case "COPY" if words[0].startswith("--from="):
                source, target = words[1:]
                origin = stages[words[0].removeprefix("--from=")].root / source.lstrip("/")
                shutil.copytree(origin, stage.root / target.lstrip("/"), symlinks=True)
            case "COPY":
                *sources, target = words
                for source in sources:
                    place = stage.root / target.lstrip("/")
                    if (ROOT / source).is_dir():
                        shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                    else:
                        place.mkdir(parents=True, exist_ok=True)
                        shutil.copy(ROOT / source, place)
            case "ENV":
                said["ENV"] |= dict(word.split("=", 1) for word in words)
            case "HEALTHCHECK":
                said[name] = json.loads(rest.partition("CMD ")[2])
            case "ENTRYPOINT" | "CMD":
                said[name] = json.loads(rest)
            case _:
                said[name] = rest
    return stage, said


def test_the_container(make_machine):
    """Built by the commands of the Dockerfile: no tools to build with are left, the process is not root, and serves
    with a root that can only be read; the check of its health fails once it has ended. Its data is in the volume."""
    machine, said = build(make_machine)
    for tool in ("gcc", "cc", "make", "pip", "pip3"):
        assert not [*machine.root.glob(f"usr/bin/{tool}"), *machine.root.glob(f"opt/mdash/bin/{tool}")], tool
    assert not list(machine.root.glob("opt/mdash/lib/python*/site-packages/pip"))
    assert not list(machine.root.glob("var/lib/apt/lists/*"))
    shutil.copy(Path(__file__).with_name("confined.py"), machine.root)
    profile = {"user": said["USER"], "system_calls": [], "refuse_new_code": False}
    (machine.root / "profile.json").write_text(json.dumps(profile))
    port = str(free_port())
    environment = machine.environment | said["ENV"]
    assert environment["MDASH_BIND"] == f"0.0.0.0:{said['EXPOSE']}"
    environment |= {"MDASH_BIND": f"127.0.0.1:{port}", "MDASH_REGISTER_ADMIN": "admin:pw"}
    volume = said["VOLUME"].lstrip("/")
    confined = ["/usr/bin/python3", "/confined.py", "/profile.json"]
    command = [*confined, *said["ENTRYPOINT"], *said["CMD"]]

    def health():
        check = [f"/usr/bin/{said['HEALTHCHECK'][0]}", *said["HEALTHCHECK"][1:]]
        with running(machine.start(*confined, *check, writable=volume, environment=environment)) as process:
            return process.wait(PATIENCE)

    for again in (False, True):
        with running(machine.start(*command, writable=volume, environment=environment)) as process:
            line = process.stdout.readline()
            assert line == f"Listening on http://127.0.0.1:{port}\n"
            assert "0" not in status(process.pid)["Uid"].split()
            assert "ro" in mounted(process.pid, "/")
            assert health() == 0
            if again:
                answer = httpx.get(f"http://127.0.0.1:{port}/api/v2/devices/lamp", auth=("admin", "pw"))
                assert answer.status_code == 200
            else:
                use(f"http://127.0.0.1:{port}", "pw")
            process.send_signal(getattr(signal, said["STOPSIGNAL"]))
            assert process.wait(10) == 0
    assert health() == 1
