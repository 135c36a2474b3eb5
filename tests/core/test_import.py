"""What importing the core loads, and what it offers."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from types import ModuleType

import pytest

import mdashcore
from mdashcore import _errors

FORBIDDEN = {
    *("trio", "asyncio", "anyio", "sniffio", "outcome", "curio", "gevent"),
    *("socket", "ssl", "select", "selectors", "http", "subprocess", "multiprocessing", "concurrent", "sqlite3"),
    *("quart", "quart_trio", "flask", "werkzeug", "hypercorn", "h11", "h2", "wsproto", "httptools", "httpx"),
    *("websockets", "trio_websocket", "multipart", "redis", "hiredis", "argon2"),
    *("click", "rich", "structlog", "cattrs", "hypothesis", "pytest"),
}
OTHER_ROOMS = {"hub", "trio", "server", "cli", "virtual_device", "testing"}


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement, and had not before."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["mdashcore", "mdashcore.storage", "mdashcore.identity", "mdashcore.notifications"])
def test_import_loads_no_loop_socket_or_framework(module: str) -> None:
    """Importing the core, or a module of it, loads nothing that waits, listens or serves, and no backend."""
    loaded = loaded_by(f"from {module} import *")
    assert module in loaded
    assert {name.partition(".")[0] for name in loaded} & (FORBIDDEN | {"mdash_backends"}) == set()
    assert {name for name in loaded if name.startswith("mdashcore.") and name.split(".")[1] in OTHER_ROOMS} == set()


def test_a_name_is_imported_when_it_is_used() -> None:
    """Importing the package loads none of its parts; using a name loads its part. An unknown name is an error."""
    assert {name for name in loaded_by("import mdashcore") if name.startswith("mdashcore.")} == {"mdashcore._errors"}
    loaded = loaded_by("import mdashcore; mdashcore.Shadow")
    assert "mdashcore.shadow" in loaded
    assert not loaded & {"mdashcore.ota", "mdashcore.firmware", "mdashcore._connection"}
    assert set(mdashcore.__all__) <= set(dir(mdashcore))
    with pytest.raises(AttributeError, match="no attribute 'Shadows'"):
        mdashcore.Shadows  # type: ignore[attr-defined]  # noqa: B018


def test_the_hub_needs_no_loop() -> None:
    """The service itself knows no event loop either: it awaits what it is given, and waits with anyio on any loop."""
    loaded = loaded_by("import mdashcore.hub")
    assert {name.partition(".")[0] for name in loaded} & (FORBIDDEN - {"anyio", "sniffio", "cattrs"}) == set()


def test_the_check_can_fail() -> None:
    """The check sees what an import loads, also where it is loaded by something else."""
    assert {"socket", "selectors"} <= loaded_by("import socket")
    assert "anyio" in loaded_by("import mdash_backends.memory")


def core_modules() -> list[ModuleType]:
    """Every module of the core, and its packages' modules."""
    names = [
        info.name
        for info in pkgutil.walk_packages(mdashcore.__path__, "mdashcore.")
        if info.name.split(".")[1] not in OTHER_ROOMS - {"testing"}
    ]
    return [mdashcore, *map(importlib.import_module, names)]


def test_public_names() -> None:
    """Every name that `__all__` gives exists, once."""
    for module in core_modules():
        names = getattr(module, "__all__", [])
        assert len(set(names)) == len(names), module
        assert [name for name in names if not hasattr(module, name)] == [], module
    assert inspect.ismodule(mdashcore.storage)
    assert re.fullmatch(r"\d+\.\d+\.\d+\w*", mdashcore.__version__)


ERRORS = {name: cls for name, cls in vars(_errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)}


def drawn_tree(drawing: str) -> dict[str, str | None]:
    """Each class of the tree in a docstring, with the one above it."""
    parents: dict[str, str | None] = {}
    above: list[str] = []
    for line in drawing.splitlines():
        if found := re.fullmatch(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)(?: .*)?", line):
            depth = len(found[1]) // 4
            del above[depth:]
            parents[found[2]] = above[-1] if above else None
            above.append(found[2])
    return parents


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """The tree in the module's docstring has every error, below its parent, and no other."""
    parents = {name: cls.__base__.__name__ for name, cls in ERRORS.items()}  # type: ignore[union-attr]
    assert drawn_tree(_errors.__doc__ or "") == parents | {"MdashError": None}


def test_every_error_is_public() -> None:
    """Each error can be caught by a name of the package's top level, and by the root."""
    for name, cls in ERRORS.items():
        assert name in mdashcore.__all__
        assert issubclass(cls, mdashcore.MdashError)


@pytest.mark.parametrize("module", core_modules(), ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    """The examples in the docstrings give what they say."""
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_examples_are_found() -> None:
    """Some modules do have examples, or the test above would test nothing."""
    names = ("mdashcore._json", "mdashcore.identity", "mdashcore.testing._pair")
    assert all(doctest.testmod(importlib.import_module(name)).attempted for name in names)


def test_event_values_are_json_free() -> None:
    """What the core hands out holds raw bytes and plain values: no type of the JSON library shows."""
    connection = mdashcore.Connection()
    connection.receive_data(json.dumps({"id": 1, "method": "M", "params": [1]}))
    [event] = connection.events()
    assert isinstance(event, mdashcore.RequestReceived)
    assert type(event.params) is bytes
