"""Write the tables of reference/bounds.md from the code: each bound with the reason beside it.

::

    python docs/limits.py            write them
    python docs/limits.py --check    fail if they are not what would be written
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import attrs
from _pages import ROOT, main, replace_marked

PAGE = ROOT / "docs" / "reference" / "bounds.md"
PACKAGE = ROOT / "src" / "mdashcore"

OTHER_FOLDERS = {"cli", "client", "testing", "virtual_device"}  # clients and test tools, which bound no service

NOT_LIMITS = {"FRAME_TOO_LARGE", "TOO_MANY_REQUESTS", "ARCHIVE_VERSION", "FILTER_GRAMMAR"}  # numbers of protocols and formats

SETTINGS = (
    "mdashcore._connection_limits.ConnectionLimits",
    "mdashcore.shadow.ShadowLimits",
    "mdashcore.firmware.FirmwareLimits",
    "mdashcore.ota._values.Options",
    "mdashcore.rollout._plan.Plan",
    "mdashcore.hub.limits.AccountLimits",
    "mdashcore.trio.settings.NodeSettings",
    "mdashcore._backoff.Backoff",
    "mdashcore.server.service.ServiceSettings",
)


def settings() -> Iterator[str]:
    """Yield a row for each field that is a number and has a docstring."""
    for path in SETTINGS:
        module, _, name = path.rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        source = importlib.import_module(module).__file__ or ""
        tree = ast.parse(Path(source).read_text(encoding="utf-8"))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        reasons = {
            field.target.id: " ".join(str(doc.value.value).split("\n\n")[0].split())
            for field, doc in pairwise(body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(doc, ast.Expr)
            and isinstance(doc.value, ast.Constant)
        }
        for field in attrs.fields(cls):
            if type(field.default) in (int, float) and field.name in reasons:
                yield f"| `{_short(path)}.{field.name}` | {field.default} | {_cell(reasons[field.name])} |"


def constants() -> Iterator[str]:
    """Yield a row for each constant that is a number, from the comment at the end of its line.

    Codes of protocols have their comment above, or a docstring below: they are no limits.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        if OTHER_FOLDERS & set(path.relative_to(PACKAGE).parts):
            continue
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        lines = path.read_text(encoding="utf-8").splitlines()
        for name, line in _assigned(ast.parse("\n".join(lines))):
            value = getattr(importlib.import_module(module), name)
            if type(value) not in (int, float) or name in NOT_LIMITS:
                continue
            _, mark, comment = lines[line].partition("  # ")
            if not mark:
                if not _explained_elsewhere(lines, line):
                    raise SystemExit(f"{path.relative_to(ROOT)}:{line + 1}: {name} has no reason beside it")
                continue
            while line + 1 < len(lines) and lines[line + 1].startswith("# "):
                line += 1
                comment += lines[line].removeprefix("#")
            yield f"| `{_short(module)}.{name}` | {value} | {_cell(comment)} |"


def _assigned(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the public constants of a module, each with the index of its last line."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_"):
                yield target.id, (node.end_lineno or node.lineno) - 1


def _explained_elsewhere(lines: list[str], line: int) -> bool:
    if line + 1 < len(lines) and lines[line + 1].startswith('"""'):
        return True
    while line > 0 and lines[line - 1].strip():
        line -= 1
        if lines[line].startswith("#"):
            return True
    return False


def _short(path: str) -> str:
    """Return a path without the package, and a name that the package exports without its module."""
    short = path.removeprefix("mdashcore.")
    return short.removeprefix("_connection_limits.")


def _cell(text: str) -> str:
    return text.strip().rstrip(".").replace("|", "\\|")


def tables() -> str:
    """Return both tables."""
    parts = [
        "## Settings",
        "",
        "| Field | Default | Meaning, and reason |",
        "|---|---|---|",
        *settings(),
        "",
        "## Constants",
        "",
        "| Constant | Value | Meaning, and reason |",
        "|---|---|---|",
        *constants(),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    main(PAGE, lambda page: replace_marked(page, {"limits": tables()}))
