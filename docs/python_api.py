"""Write reference/python_api.md, and the pages of its folder, from the public modules: each name with its docstring.

::

    python docs/python_api.py            write them
    python docs/python_api.py --check    fail if one is not what would be written, or a name has no docstring
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import attrs
from _pages import main

FOLDER = Path(__file__).parent / "reference" / "python_api"
INDEX = FOLDER.with_suffix(".md")


@attrs.frozen
class Page:
    """A page of the folder: the modules that one kind of program imports, with the words about each."""

    title: str
    audience: str
    """The line on the index page."""
    modules: dict[str, str]


PAGES = {
    "core": Page("The core", "values and a protocol, without a loop: for any program", {
        "mdashcore": "The core's public names. Importing it loads no event loop, no socket and no framework.",
        "mdashcore.jsonrpc": "JSON-RPC 2.0 framing, with the dialect of Mongoose OS: one text in, messages out. No state.",
        "mdashcore.shadow": "Device shadows as values.",
        "mdashcore.filters": "The grammar of [filters](../filters.md).",
        "mdashcore.filter_completion": "What a person can type next in a filter.",
        "mdashcore.selection": "Selections of devices: the terms of a filter, applied.",
        "mdashcore.series": "Values over time: in buckets, with the gaps in which the device was offline.",
        "mdashcore.tags": "The [tags](../rest_api.md#tags) of devices.",
        "mdashcore.firmware": "Firmware images: read, checked and written.",
        "mdashcore.notifications": "The names and the form of [notifications](../notifications.md).",
    }),
    "updates": Page("Updates, rollouts and jobs", "firmware updates, rollouts and jobs as values: what comes next, and what is the result", {
        "mdashcore.ota": "A firmware update as a value: `next_step` returns the next call, `advance` applies its result.",
        "mdashcore.rollout": "A rollout as a value: `judge` applies the outcomes of its devices to the whole.",
        "mdashcore.job": "A job as a value: values of `desired` for many devices, and what they change.",
    }),
    "client": Page("The client", "for a program that talks to a running server", {
        "mdashcore.client": "A client of a running server, on asyncio and Trio. Extra: `client`.",
        "mdashcore.documents": "The JSON documents of the REST API, as types. See [REST API](../rest_api.md).",
    }),
    "devices": Page("Devices", "for a program that is a device, or plays one in tests", {
        "mdashcore.trio.agent": "The device's end. Extra: `agent`.",
        "mdashcore.virtual_device": "A Mongoose OS device made of software, without its connection.",
        "mdashcore.virtual_device.connect": "A virtual device with its connection.",
        "mdashcore.testing.device": "A scripted device on a real WebSocket. Extra: `agent`.",
    }),
    "hub": Page("The hub", "the service on any event loop: for a program with transports of its own", {
        "mdashcore.hub": "The service, on any event loop: it awaits nothing but the storage protocols.",
    }),
    "server": Page("The server", "live connections, and the server with its parts: for a program that has it inside", {
        "mdashcore.trio.node": "Live connections on Trio. Extra: `agent` or `server`.",
        "mdashcore.server.run": "The whole server. Extra: `server`.",
        "mdashcore.server.config": "The configuration of the server. See [Configuration](../configuration.md).",
        "mdashcore.server.app": "The REST API, and the types of ASGI apps.",
        "mdashcore.server.gateway": "One port for sockets and an app.",
        "mdashcore.server.service": "The objects that the app and the gateway share.",
    }),
    "storage": Page("Storage", "the contract of a backend, and the suites that prove one", {
        "mdashcore.storage": "The contract of a backend, and the function that finds one.",
        "mdashcore.testing": "Tools for tests of software built on mdashcore. The suites need the extra `testing`.",
    }),
}  # fmt: skip
"""The pages by the names of their files, in the order of the index."""

MODULES = {module: name for name, page in PAGES.items() for module in page.modules}
"""Each module, and its page."""

PARTS = {
    "Accounts": "accounts", "DeviceList": "device_list", "Feed": "feed", "Presence": "presence", "Registry": "registry",
    "Retention": "retention", "Rollouts": "rollouts", "Jobs": "jobs", "Sessions": "sessions", "Shadows": "shadows", "Updates": "updates", "Images": "blobs",
    "Usage": "usage",
}  # fmt: skip
"""The classes whose objects a `Hub` makes, and the attribute that has each."""

NODE_PARTS = {
    "Calls": "calls", "UserCalls": "user_calls", "DeviceConnections": "devices", "UpdateSupervisor": "update_supervisor",
    "Subscribers": "subscribers", "RolloutSupervisor": "rollouts", "JobSupervisor": "jobs",
}  # fmt: skip
"""The same for a `Node`."""

SUMMARIES = {"mdashcore.documents", "mdashcore.testing"}
"""Modules whose classes are used as a whole: tests are no verbs for an embedder, and members stand in the REST API."""

NOT_FOR_EMBEDDERS = {
    "Registry": {"records", "begin_removal", "finish_removal", "check_stays"},
    "Accounts": {"begin_removal", "remove_keys", "replace_hash", "remove"},
    "Presence": {"records", "left_behind", "forget"},
    "Shadows": {"records", "forget"},
    "Feed": {"append", "too_old", "events_too_old", "remove_before", "forget", "events"},
    "Sessions": {"forget"},
    "UpdateSupervisor": {
        "on_connected",
        "on_disconnected",
        "on_event",
        "on_notification",
        "on_changed",
        "on_missed",
        "check",
        "resume_all",
        "follow_clock",
        "forget",
    },
    "RolloutSupervisor": {"run", "follow_clock", "take_over", "on_missed", "on_notification"},
    "JobSupervisor": {"run", "take_over", "on_notification"},
    "Jobs": {"check_owner", "forget", "remove_orphan", "orphans", "notify", "notify_progress", "unfinished"},
    "Subscribers": {"offer", "catch_up", "revoke", "close", "check"},
    "Calls": {"call_local", "begin_shown", "call_shown", "notify_shown"},
    "UserCalls": {"begin"},
    "DeviceConnections": {"link", "last_heard", "revoke", "close", "shut_down", "check", "check_slowly"},
    "Updates": {"forget", "remove_orphan", "orphans", "store"},
    "Usage": {"reserve", "release", "reserve_bytes", "arrived", "gone", "forget"},
    "UsageRecord": {"with_"},
    "Node": {
        "shadow_changed",
        "device_revoked",
        "notified",
        "build_reported",
        "device_removed",
        "key_revoked",
        "shut_down",
    },
    "Rollouts": {
        "check_owner",
        "forget",
        "remove_orphan",
        "orphans",
        "notify",
        "notify_progress",
        "begun_members",
        "age",
        "unfinished",
    },
}
"""Members that the hub's own parts call: they are not on the page, and may change at any time."""

MARK = "<!-- Written by docs/python_api.py from the docstrings: change those, and run it. -->\n\n"

INDEX_HEAD = """The public names, with what their docstrings say; `help()` shows the same. A module or a name that is not here, or begins
with `_`, may change at any time: see [Stability](stability.md).

| Page | Modules | |
|---|---|---|
"""

SECTIONS = ("Args", "Raises", "Returns", "Attributes", "Yields")


# Documentation in the source


@cache
def tree(module: str) -> ast.Module:
    """Return the source of a module."""
    return ast.parse(Path(importlib.import_module(module).__file__ or "").read_text(encoding="utf-8"))


def words_of_constant(module: str, name: str) -> str:
    """Return the docstring below the assignment of a constant, or the comment beside it."""
    source = Path(importlib.import_module(module).__file__ or "").read_text(encoding="utf-8").splitlines()
    body = tree(module).body
    for node, after in pairwise([*body, ast.Pass()]):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return inspect.cleandoc(str(after.value.value))
            _, mark, comment = source[(node.end_lineno or node.lineno) - 1].partition("  # ")
            return comment if mark else ""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return words_of_constant(str(node.module), name)
    return ""


def fields_of(cls: type) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of each public field that the body of a class or of a base has."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("mdash"):
            continue
        node = next(
            (n for n in tree(base.__module__).body if isinstance(n, ast.ClassDef) and n.name == base.__name__), None
        )
        for field, after in pairwise([*(node.body if node else []), ast.Pass()]):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and not field.target.id.startswith("_")
            ):
                doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                kind = ast.unparse(field.annotation)
                found[field.target.id] = f"`{kind}`. {inspect.cleandoc(str(doc))}".strip() if doc else f"`{kind}`"
    yield from found.items()


def members_of(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, in the order of its source."""
    hidden = NOT_FOR_EMBEDDERS.get(cls.__name__, set())
    seen = set()
    for base in cls.__mro__:
        if base.__module__.startswith("mdash"):
            for name, value in vars(base).items():
                is_verb = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
                is_verb = is_verb or type(value).__name__ == "cached_property"
                if not name.startswith("_") and name not in hidden | seen and is_verb:
                    seen.add(name)
                    yield name, value


# Markdown


def signature(name: str, function: Any, *, method: bool) -> str:
    """Return a signature as it is written: parameters with types and defaults, and the type of the result."""
    parts, star = [], False
    parameters = list(inspect.signature(function).parameters.values())[1 if method else 0 :]
    for parameter in parameters:
        text = parameter.name
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        if parameter.kind is parameter.VAR_POSITIONAL:
            text, star = f"*{text}", True
        if parameter.kind is parameter.VAR_KEYWORD:
            text = f"**{text}"
        if parameter.annotation is not parameter.empty:
            text += f": {annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {default(parameter.default)}"
        parts.append(text)
    returned = inspect.signature(function).return_annotation
    result = "" if returned is inspect.Signature.empty else f" -> {annotation(returned)}"
    inner = inspect.unwrap(function)
    prefix = "async " if inspect.iscoroutinefunction(inner) else "async with " if inner is not function else ""
    if prefix == "async with ":
        result = re.sub(r"AsyncIterator\[(.*)\]$|AsyncGenerator\[(.*), None\]$", lambda m: m[1] or m[2], result)
        prefix = prefix if inspect.isasyncgenfunction(inner) else "with "
    return f"{prefix}{name}({', '.join(parts)}){result}"


def annotation(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def default(value: Any) -> str:
    if value is attrs.NOTHING:
        return "..."
    if attrs.has(type(value)):
        return f"{type(value).__name__}()"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__ if value.__name__ != "<lambda>" else "..."
    text = repr(value)
    return text if len(text) < 40 and " at 0x" not in text else "..."


def rendered(doc: str, level: int = 0) -> list[str]:
    """Return a docstring as Markdown. Its sections become lists, and indented text after `::` becomes code."""
    lines: list[str] = []
    indent = "  " * level
    section = code = ""
    for line in [*doc.splitlines(), ""]:
        if line.startswith((">>> ", "... ")) or (code == "doctest" and line.strip()):
            lines += [] if code else ["", f"{indent}```pycon"]
            code = "doctest"
            lines.append(f"{indent}{line}")
            continue
        if code == "doctest":
            lines += [f"{indent}```", ""]
            code = ""
        if code and line.strip() and not line.startswith("    "):
            while not lines[-1]:
                lines.pop()
            lines += [f"{indent}```", ""]
            code = ""
        if (head := re.fullmatch(r"(\w+):", line)) and head[1] in SECTIONS:
            section = head[1]
            lines += ["", f"{indent}{section}:", ""]
        elif section and (entry := re.fullmatch(r"    ([*\w., ]+): (.*)", line)):
            names = ", ".join(f"`{name.strip()}`" for name in entry[1].split(","))
            lines.append(f"{indent}* {names}: {entry[2]}")
        elif section and line.startswith("     "):
            lines.append(f"{indent}  {line.strip()}")
        elif section and line.startswith("    "):
            lines.append(
                f"{indent}* {line.strip()}" if section in ("Returns", "Yields") else f"{indent}  {line.strip()}"
            )
        elif line.startswith("    ") and not section:
            if not code:
                lines += ["", f"{indent}```python"]
                code = "```"
            lines.append(f"{indent}{line[4:]}")
        else:
            if code and line.strip():
                lines += [f"{indent}{code}", ""]
                code = ""
            elif code:
                lines.append("")
                continue
            if section and not line.strip():
                continue
            if section and line.strip():
                section = ""
                lines.append("")
            line = re.sub(r"::$", ":", line) if line != "::" else ""
            lines.append(f"{indent}{line}".rstrip())
    if code:
        while lines and not lines[-1]:
            lines.pop()
        lines.append(f"{indent}{code}")
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(re.sub(r"``([^`]+)``", r"`\1`", line) for line in lines)).strip("\n")
    return text.splitlines()


def summary(doc: str) -> str:
    """Return the first paragraph as the text of a table's cell."""
    first = re.split(r"\n\n|::", inspect.cleandoc(doc))[0]
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(first.split())).replace("|", "\\|").rstrip(":")


def is_value(value: Any) -> bool:
    if inspect.isclass(value) and value.__module__ == "builtins":
        return True  # an alias, such as `RawJson`
    return not (inspect.isclass(value) and get_origin(value) is None) and not inspect.isroutine(value)


def entry(module: str, name: str) -> tuple[str, list[str]]:
    """Return the words of a name for the table, and its part of the page, which may be empty."""
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, ModuleType):
        return f"Module: {summary(value.__doc__ or '').rstrip('.')}. See below.", []
    if is_value(value):
        words = summary(words_of_constant(module, name))
        if isinstance(value, str | int | float):
            words = f"`{value}`" + (f": {words}" if words else "")
        return words, []
    doc = inspect.getdoc(value) or ""
    if module in SUMMARIES:
        return summary(doc), []
    lines = [f"### `{name}`", ""]
    if inspect.isclass(value):
        lines += class_part(value, doc)
    else:
        lines += ["```python", signature(name, value, method=False), "```", "", *rendered(doc)]
    return summary(doc), [*lines, ""] if has_more(value, doc) else []


def has_more(value: Any, doc: str) -> bool:
    """Return whether a class or function has more documentation than the table shows."""
    if not inspect.isclass(value):
        return True
    if issubclass(value, Exception):
        return False
    return "\n\n" in doc or any(True for _ in fields_of(value)) or any(True for _ in members_of(value))


def class_part(cls: type, doc: str) -> list[str]:
    lines = []
    is_exception, fields = issubclass(cls, Exception), list(fields_of(cls))
    if (part := PARTS.get(cls.__name__)) is not None:
        doc = f"{doc.partition(chr(10) + 'Args:')[0].rstrip()}\n\nA `Hub` has one: `hub.{part}`."
    elif (part := NODE_PARTS.get(cls.__name__)) is not None:
        doc = f"{doc.partition(chr(10) + 'Args:')[0].rstrip()}\n\nA `Node` has one: `node.{part}`."
    elif not is_exception and "__init__" in vars(cls) and not getattr(cls, "_is_protocol", False):
        call = signature(cls.__name__, cls.__init__, method=True).removesuffix(" -> None")
        lines += ["```python", call, "```", ""]
    lines += rendered(doc)
    if fields:
        lines += ["", *(f"* `{name}`: {' '.join(words.split())}" for name, words in fields)]
    for name, value in members_of(cls):
        if isinstance(value, property) or type(value).__name__ == "cached_property":
            function = value.fget if isinstance(value, property) else value.func
            kind = annotation(inspect.signature(function).return_annotation)
            lines_of_member = [f"#### `{cls.__name__}.{name}: {kind}`"]
            words = inspect.getdoc(function) or ""
        else:
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            lines_of_member = [f"#### `{cls.__name__}.{name}`", "", "```python"]
            lines_of_member += [signature(name, function, method=not isinstance(value, staticmethod)), "```"]
            words = inspect.getdoc(getattr(cls, name)) or ""
        if not words:
            MISSING.append(f"{cls.__module__}.{cls.__name__}.{name}")
        lines += ["", *lines_of_member, "", *rendered(words)]
    return lines


MISSING: list[str] = []
"""Public names without a docstring."""


def index() -> str:
    """Return the page that leads to all others."""
    rows = [
        f"| [{page.title}](python_api/{name}.md) | {', '.join(f'`{module}`' for module in page.modules)} | {page.audience} |"
        for name, page in PAGES.items()
    ]
    return "\n".join([f"# Python API\n\n{MARK}{INDEX_HEAD}{rows[0]}", *rows[1:]]) + "\n"


def page_of(page: Page) -> str:
    """Return a page of the folder."""
    parts = [f"# Python API: {page.title[0].lower()}{page.title[1:]}\n\n{MARK}"]
    for module, intro in page.modules.items():
        names = importlib.import_module(module).__all__
        rows, details = [], []
        for name in sorted(names, key=lambda name: (name.lower(), name)):
            words, part = entry(module, name)
            if not words:
                MISSING.append(f"{module}.{name}")
            home = home_of(module, name)
            rows.append(f"| `{name}` | {words}{_see(module, home) if part else ''} |")
            details += part if home == module else []
        parts += [
            f"## `{module}`\n\n{intro}\n\n| Name | |\n|---|---|\n",
            "\n".join(rows),
            "\n\n",
            "\n".join(details),
            "\n" * bool(details),
        ]
    return "".join(parts).rstrip("\n") + "\n"


def _see(module: str, home: str) -> str:
    """Return the reference from the table of a module to the one below which a name has its part."""
    if home == module:
        return ""
    if MODULES[home] == MODULES[module]:
        return f" See `{home}`."
    return f" See [`{home}`]({MODULES[home]}.md)."


def home_of(module: str, name: str) -> str:
    """Return the module below which a name has its part: the one that defines it, if that is on a page."""
    home = getattr(getattr(importlib.import_module(module), name), "__module__", None)
    return home if home in MODULES and name in importlib.import_module(home).__all__ else module


def pages() -> dict[Path, str]:
    """Return the pages by their paths. Exits if a public name has no docstring."""
    found = {INDEX: index()} | {FOLDER / f"{name}.md": page_of(page) for name, page in PAGES.items()}
    if MISSING:
        sys.exit("\n".join(["these public names have no docstring:", *MISSING]))
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        main(path, lambda _, text=text: text)
