"""The way of a new user, from the pages alone: the wheel, the service behind Caddy with TLS, a device on another
machine and its firmware, Prometheus, a backup, an upgrade, and a server that begins with the backup.

Two network namespaces are the machines. That of the server has `/etc`, `/opt` and `/var` of its own, so that the lines
of the pages run there as they stand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import default_signals

import mdashcore

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds for what a program is expected to say or do: far above what it takes on a busy machine
PASSWORD = "a long password"  # as in deploy/mdash.toml

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]

SERVER_FOLDERS = """
mkdir "$1.own"
mount -t tmpfs tmpfs "$1.own"
for name in etc opt var; do
    mkdir --parents "$1.own/$name/new" "$1.own/$name/work"
    mount -t overlay -o "lowerdir=/$name,upperdir=$1.own/$name/new,workdir=$1.own/$name/work" overlay "/$name"
done
"""
HOSTS = """
printf '127.0.0.1 localhost\\n10.231.0.1 mdash.example\\n' > "$1.hosts"
mount --bind "$1.hosts" /etc/hosts
ip link set lo up
echo ready
exec cat
"""


class Machine:
    """A network namespace, with mounts of its own, that ends with its context."""

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["unshare", "--net", "--mount", "--propagation=private", "sh", "-euc", script, "sh", str(folder)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.pid = self._holder.pid
        self._enter = ["nsenter", f"--target={self.pid}", "--mount"]
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MDASH_", "VIRTUAL"))
        }
        path = "/opt/mdash/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.environment = {**kept, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def close(self) -> None:
        """End it."""
        self._holder.communicate(timeout=PATIENCE)

    def _command(self, lines: str, *, online: bool = False) -> list[str]:
        network = [] if online else ["--net"]
        shell = ["bash", "-euo", "pipefail", "-c", f"cd {shlex.quote(str(self.folder))}\n{lines}"]
        return [*self._enter, *network, *shell]

    def run(self, lines: str, *, status: int = 0, online: bool = False) -> str:
        """Run lines of shell, and return what they have written.

        Args:
            online: run them in the network of the machine that the tests run on: to install packages.
        """
        done = subprocess.run(
            self._command(lines, online=online),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, f"exit code {done.returncode} of\n{lines}\n{done.stdout}"
        return done.stdout

    @contextmanager
    def running(self, line: str, log: Path) -> Iterator[Callable[[str], str]]:
        """Run a program for as long as the context lasts, and then end it with SIGTERM.

        Yields:
            Waits for a line in what the program writes, and returns what it has written so far.
        """
        with log.open("w") as out, default_signals():
            process = subprocess.Popen(
                self._command(f"exec {line}"),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

        def expect(pattern: str) -> str:
            deadline = time.monotonic() + PATIENCE
            while not re.search(pattern, said := log.read_text(), re.MULTILINE):
                assert process.poll() is None, f"{line} has ended:\n{said}"
                assert time.monotonic() < deadline, f"{line} never said {pattern!r}:\n{said}"
                time.sleep(0.05)
            return said

        try:
            yield expect
        finally:
            process.terminate()
            process.wait(PATIENCE)


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def code(page: str, mark: str) -> str:
    """The block of a page with this mark."""
    pattern = rf"^<!-- test: {mark} -->\n```\w+\n(.*?)^```$"
    (found,) = re.findall(pattern, text_of(page), re.MULTILINE | re.DOTALL)
    return found


def need(program: str) -> None:
    """Skip the walk without this program; where everything has to run, that is a failure."""
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"there is no {program}: see tests/run")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """The server's and the device's, with a cable between them."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    for program in ("caddy", "prometheus", "ip"):
        need(program)
    server, device = Machine(tmp_path / "server", SERVER_FOLDERS + HOSTS), Machine(tmp_path / "device", HOSTS)
    try:
        server.run(
            f"ip link add mdash0 type veth peer name mdash0 netns {device.pid}\n"
            "ip address add 10.231.0.1/24 dev mdash0; ip link set mdash0 up"
        )
        device.run("ip address add 10.231.0.2/24 dev mdash0; ip link set mdash0 up")
        yield server, device
    finally:
        device.close()
        server.close()


@pytest.fixture
def newer(built, tmp_path: Path) -> Path:
    """The wheel of the next version: this one's, with another number."""
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("mdashcore-*")
    major, minor, _ = mdashcore.__version__.split(".")
    version = f"{major}.{int(minor) + 1}.0"
    for name, form in (("src/mdashcore/__init__.py", '__version__ = "{}"\n'), ("PKG-INFO", "\nVersion: {}\n")):
        text = (source / name).read_text(encoding="utf-8")
        assert form.format(mdashcore.__version__) in text
        text = text.replace(form.format(mdashcore.__version__), form.format(version), 1)
        (source / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=280)
    (wheel,) = tmp_path.glob("*.whl")
    return wheel


def until(check: Callable[[], object]) -> None:
    """Ask until the answer is true."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.2)


def test_the_way_of_a_new_user(built, newer, machines, tmp_path):
    """Every line is one of the pages, with a real password, token and name in place of the examples'. A device of the
    first day, its shadow, its update and its token are still there after the upgrade, and on the restored server."""
    server, device = machines
    systemd, proxy, install = (
        f"how_to_guides/{name}.md" for name in ("deploy_with_systemd", "behind_a_proxy", "install")
    )

    # The service: the wheel and the files of deploy/ are in the folder
    for file in (built.wheel, newer, ROOT / "deploy/mdash.service"):
        shutil.copy(file, server.folder)
    text = (ROOT / "deploy/mdash.toml").read_text(encoding="utf-8")
    text = re.sub(r"^# (?=\[\[users|\w+ = )", "", text, flags=re.MULTILINE)  # with the user
    metrics = re.search(r'`(metrics_bind = ".*?")`', text_of("how_to_guides/plot_with_prometheus.md"))[1]
    (server.folder / "mdash.toml").write_text(text.replace("\nstore =", f"\n{metrics}\nstore ="))
    server.run(code(systemd, "service"), online=True)
    server.run("install --directory --mode=700 --owner=mdash --group=mdash /var/lib/mdash")  # StateDirectory
    (start,) = re.findall(r"^ExecStart=(.*)$", (ROOT / "deploy/mdash.service").read_text(), re.MULTILINE)
    serve = f"runuser -u mdash -- {start}"

    # Caddy
    shutil.copy(ROOT / "deploy/Caddyfile", server.folder)
    server.run("mkdir --parents /etc/caddy && cp Caddyfile /etc/caddy/Caddyfile")
    server.run(code(proxy, "internal Caddyfile"))
    server.run("install --directory --owner=caddy /var/lib/caddy")
    low_ports = "--inh-caps +net_bind_service --ambient-caps +net_bind_service"  # as Debian's unit has it
    caddy = f"setpriv --reuid caddy --regid caddy --init-groups {low_ports} env HOME=/var/lib/caddy \\\n"
    caddy += "caddy run --config /etc/caddy/Caddyfile"
    authority = re.search(r"`(/var/lib/caddy/\S+/root\.crt)`", text_of(proxy))[1]

    with server.running(caddy, tmp_path / "caddy.log") as caddy_says:
        with server.running(serve, tmp_path / "first.log") as says:
            says("^Listening on ")
            caddy_says("certificate obtained successfully")
            (device.folder / "root.crt").write_text(server.run(f"cat {authority}"))
            device.environment |= {"MDASH_SERVER": "https://mdash.example", "MDASH_CAFILE": "root.crt"}
            # the command on the device's machine, by the wheel too
            device.run(f"python3 -m venv mdash && mdash/bin/pip install -q '{built.wheel}[server]'", online=True)
            device.environment["PATH"] = f"{device.folder}/mdash/bin:{device.environment['PATH']}"
            device.environment["MDASH_USER"] = f"admin:{PASSWORD}"
            key = device.run("mdash key add laptop").strip()
            assert key.startswith("mdk_")
            del device.environment["MDASH_USER"]
            device.environment["MDASH_KEY"] = key
            token = device.run(code("how_to_guides/connect_a_device.md", "add")).split()[1]
            assert token.startswith("mdd_")

            # The device connects over TLS
            *_, connect = code("how_to_guides/connect_a_device.md", "elsewhere").splitlines()
            device.environment["MDASH_TOKEN"] = token
            with device.running(connect, tmp_path / "device.log") as device_says:
                device_says("lamp: connected to wss://mdash.example/api/v2/rpc$")
                (device.folder / "make_firmware.py").write_text(
                    code("tutorials/first_device.md", "firmware").replace("thermostat", "lamp")
                )
                device.run("python3 make_firmware.py")
                assert "UNCOMMITTED" in device.run("mdash ota lamp fw.zip --no-wait", status=6)
                device.run("mdash call lamp OTA.Commit")
                assert "COMMITTED" in device.run("mdash ota lamp --status")
                assert '"fw_version":"1.1"' in device.run("mdash call lamp Sys.GetInfo")
                device.run("""mdash shadow set lamp '{"on":true}'""")

                # Prometheus, on the server's machine
                server.environment["MDASH_KEY"] = key
                server.run("mkdir --parents /etc/prometheus")
                server.run(code("how_to_guides/plot_with_prometheus.md", "key"))
                config = code("how_to_guides/plot_with_prometheus.md", "prometheus").replace("30s", "1s")
                (server.folder / "prometheus.yml").write_text(config)
                server.run("cp prometheus.yml /etc/prometheus/prometheus.yml")
                options = "--config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=history"
                with server.running(f"prometheus {options}", tmp_path / "prometheus.log") as prometheus_says:
                    prometheus_says("Server is ready to receive web requests")

                    def query(text: str) -> list[dict[str, object]]:
                        asked = f"curl -sSG --data-urlencode {shlex.quote(f'query={text}')} 127.0.0.1:9090/api/v1/query"
                        return json.loads(server.run(asked))["data"]["result"]

                    until(lambda: query('mdash_device_online{id="lamp"} == 1'))
                    until(lambda: query('mdash_connections{kind="device"} == 1'))
                    until(lambda: query('mdash_updates_total{state="COMMITTED"} == 1'))

                # Backup and upgrade
                line = re.search(r"^ *(mdash store backup .*) --user \S+$", text_of(install), re.MULTILINE)[1]
                server.run(f"{line} --user {shlex.quote(f'admin:{PASSWORD}')}")
                upgrade = re.search(r"^ *(/opt/mdash/bin/pip install --upgrade .*)$", text_of(install), re.MULTILINE)[1]
                assert newer.name in upgrade
                server.run(upgrade, online=True)

        # the older server has ended, the newer one starts on its store
        with (
            server.running(serve, tmp_path / "second.log") as says,
            device.running(connect, tmp_path / "again.log") as d,
        ):
            says("^Listening on ")
            assert server.run("mdash --version").split()[1] == newer.name.split("-")[1]
            assert server.run("curl -sS http://127.0.0.1:8080/healthz") == '{"status":"ok"}'
            d("lamp: connected to wss://mdash.example/api/v2/rpc$")
            look(device)

        # A server that begins with the backup, in place of the store
        (server.folder / "before.jsonl").rename(server.folder / "mdash.jsonl")
        restore = code("how_to_guides/keep_it_running.md", "restore")
        server.run("\n".join(line for line in restore.splitlines() if not line.startswith("systemctl ")))
        with (
            server.running(serve, tmp_path / "third.log") as says,
            device.running(connect, tmp_path / "third.txt") as d,
        ):
            says("^Listening on ")
            d("lamp: connected to wss://mdash.example/api/v2/rpc$")
            look(device)


def look(device: Machine) -> None:
    """The device runs the firmware of the update, of which the server knows; its shadow is as it was left."""
    assert '"fw_version":"1.1"' in device.run("mdash call lamp Sys.GetInfo")
    assert "COMMITTED" in device.run("mdash ota lamp --status")
    assert '"on":true' in device.run("mdash shadow get lamp").replace(" ", "").replace("\n", "")
