"""Draws the Mermaid diagrams of the pages with Graphviz, when the site is built: a browser then asks for nothing.

It reads what the pages use: ``flowchart TD`` with boxes and arrows, and ``stateDiagram-v2`` with labelled transitions.
Anything else is an error.
"""

from __future__ import annotations

import re
import subprocess
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.transforms import SphinxTransform

LINE_LENGTH = 44  # characters of a label: Graphviz breaks no lines

HEAD = """digraph {
bgcolor=transparent; rankdir=TB; nodesep=0.4; ranksep=0.5;
node [shape=box, style=rounded, fontname="sans-serif", fontsize=11, margin="0.15,0.08"];
edge [fontname="sans-serif", fontsize=9, arrowsize=0.7];
"""

ENDS = """
begin [shape=circle, label="", width=0.15, style=filled];
end [shape=doublecircle, label="", width=0.1, style=filled];
"""

_BOX = r'(\w+)(?:\["([^"]*)"\])?'
_ARROW = re.compile(rf"{_BOX} (?:-->|-\. (\w+) \.->) {_BOX}")
_TRANSITION = re.compile(r"(\w+|\[\*\]) --> (\w+|\[\*\])(?:: (.*))?")


def quoted(text: str) -> str:
    """Return a string of the language of Graphviz, with long lines broken."""
    lines = [line for part in text.split(r"\n") for line in _broken(part)]
    return '"' + r"\n".join(line.replace("\\", "\\\\").replace('"', r"\"") for line in lines) + '"'


def _broken(text: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= LINE_LENGTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def to_dot(source: str) -> str:
    """Return a diagram in Graphviz' language. Raises `SphinxError` for a line that is not understood."""
    kind, *lines = [line.strip() for line in source.strip().splitlines()]
    if kind == "flowchart TD":
        return HEAD + "\n".join(map(_flow, lines)) + "\n}"
    if kind == "stateDiagram-v2":
        return HEAD + ENDS + "\n".join(map(_transition, lines)) + "\n}"
    raise SphinxError(f"no diagram can be drawn that begins with {kind!r}: see docs/_site/diagrams.py")


def _flow(line: str) -> str:
    found = _ARROW.fullmatch(line)
    if found is None:
        raise SphinxError(f"not understood in a diagram: {line!r}")
    first, first_label, label, second, second_label = found.groups()
    boxes = [f"{name} [label={quoted(text)}];" for name, text in ((first, first_label), (second, second_label)) if text]
    options = f" [style=dashed, label={quoted(label)}]" if label else ""
    return f"{' '.join(boxes)} {first} -> {second}{options};"


def _transition(line: str) -> str:
    found = _TRANSITION.fullmatch(line)
    if found is None:
        raise SphinxError(f"not understood in a diagram: {line!r}")
    first, second, label = found.groups()
    first, second = ("begin" if first == "[*]" else first), ("end" if second == "[*]" else second)
    return f"{first} -> {second} [label={quoted(label or '')}];"


def draw(source: str) -> str:
    """Return a diagram as SVG, to stand in a page. Its colours are the page's, light or dark: see static/site.css."""
    try:
        command = ["dot", "-Tsvg"]
        done = subprocess.run(command, input=to_dot(source), capture_output=True, text=True, check=True)  # noqa: S603
    except FileNotFoundError:
        raise SphinxError("diagrams are drawn by the command dot: install the Debian package graphviz") from None
    except subprocess.CalledProcessError as exc:
        raise SphinxError(f"Graphviz cannot draw a diagram: {exc.stderr}") from exc
    svg = done.stdout[done.stdout.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\n?|<title>.*?</title>\n?", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", '<svg class="diagram" role="img" aria-label="Diagram" ', 1)


class Diagrams(SphinxTransform):
    """Replaces each block of Mermaid by its picture."""

    default_priority = 500

    def apply(self, **_kwargs: Any) -> None:
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") == "mermaid":
                picture = draw(block.astext()) if self.app.builder.format == "html" else block.astext()
                block.replace_self(nodes.raw("", f'<div class="diagram">{picture}</div>', format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_transform(Diagrams)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
