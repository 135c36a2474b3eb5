"""The package as type checkers see it: mypy and pyright, both strict, on the pages' programs and on an embedder's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYRIGHT = ROOT / "node_modules" / "pyright" / "index.js"

needs_pyright = pytest.mark.skipif(not PYRIGHT.exists(), reason="the npm package pyright is not installed")


@pytest.fixture(scope="module")
def programs(pages, tmp_path_factory):
    """A folder with every Python program of the pages; pieces of one program are put together."""
    found = {}
    for page in pages:
        for block in page.blocks():
            if block.language == "python":
                named = re.match(r"# (\w+)\.py\n", block.code)
                name = named[1] if named else block.mark.split()[0]
                key = name if named or name == "onefile" else f"{page.path.stem}_{name}"
                found[key] = "\n\n".join(filter(None, [found.get(key), block.code]))
    assert {"onefile", "test_onefile", "embed_the_core_server", "mount_the_app_beside"} <= found.keys()
    folder = tmp_path_factory.mktemp("programs")
    for name, code in found.items():
        (folder / f"{name}.py").write_text(code)
    (folder / "embedder.py").write_text((ROOT / "tests/types/embedder.py").read_text())
    return folder


def mypy(folder: Path) -> subprocess.CompletedProcess[str]:
    """Look at all files of a folder, as an installation of the package would be looked at.

    With the project's settings, which are as strict: so what the check of the source has read is not read once more.
    """
    command = [sys.executable, "-m", "mypy", f"--config-file={ROOT}/pyproject.toml", f"--cache-dir={ROOT}/.mypy_cache"]
    files = sorted(map(str, folder.glob("*.py")))
    return subprocess.run([*command, *files], cwd=folder, capture_output=True, text=True, timeout=280, check=False)


def pyright(folder: Path, *options: str, patience: float = 280) -> subprocess.CompletedProcess[str]:
    """The same, with pyright's own strict mode."""
    settings = {
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": True,
        "enableTypeIgnoreComments": False,  # those are mypy's
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["node", str(PYRIGHT), "--pythonpath", sys.executable, *options]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=patience, check=False)


WRONG = """
from mdashcore import Connection

Connection().call(5)
"""


@pytest.mark.parametrize("checker", [mypy, pytest.param(pyright, marks=needs_pyright)])
def test_every_program_is_accepted(checker, programs):
    """In strict mode, in which pyright also wants to know every type that comes out of the package: so it is typed as
    its users need it. Beside them one wrong call is seen: both read the package's types, `py.typed` is there."""
    (programs / "wrong.py").write_text(WRONG)
    done = checker(programs)
    errors = [line for line in done.stdout.splitlines() if re.search(r"\berror:", line)]
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(errors) == 1, done.stdout
    assert "wrong.py:4" in errors[0]
    assert '"str"' in done.stdout


@pytest.mark.proof  # it reads the whole package for half a minute; what the programs use is looked at above
@needs_pyright
def test_every_type_is_known(tmp_path):
    """Nothing that a module offers is left for a type checker to guess, which each would do in its own way."""
    done = pyright(tmp_path, "--verifytypes", "mdashcore", "--ignoreexternal", "--outputjson", patience=600)
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    assert len(symbols) > 2000
    unknown = [each for each in symbols if not each["isTypeKnown"] or each["isTypeAmbiguous"]]
    assert {each["name"]: [why["message"] for why in each["diagnostics"]] for each in unknown} == {}
