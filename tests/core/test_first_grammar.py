"""Filters that are stored in rollouts of version 0.1 keep their meaning."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from mdashcore._first_grammar import translated
from mdashcore.filters import parse_term
from mdashcore.ota import UpdateImage
from mdashcore.rollout import Plan, Rollout
from mdashcore.selection import Facts, Selection

RECORDED = json.loads((Path(__file__).parent / "first_grammar.json").read_text())
"""The terms that version 0.1 understood, with the devices for which it said that each holds."""

DEVICES = [
    Facts(each["id"], each["name"], online=each["online"], state=lambda each=each: each["state"])
    for each in RECORDED["devices"]
]


@pytest.mark.parametrize("term", RECORDED["holds"])
def test_a_stored_term_keeps_its_meaning(term):
    """Its translation is a term of today's grammar, and holds for the devices for which it held then."""
    selection = Selection(terms=(parse_term(translated(term)),))
    assert [each.id for each in DEVICES if selection.matches(each, 0.0)] == RECORDED["holds"][term]


def test_a_stored_rollout_is_translated_once():
    """A rollout of version 0.1 is read with today's form of its filter; one of today is read as it was written."""
    image = UpdateImage("fw", 1, "", bare=True)
    made = Rollout.begun("rol_a", "", image, Plan(), ['name="a|b"'], 1, now=0.0)
    assert Rollout.from_stored(made.to_stored()) == made
    older = {name: value for name, value in made.to_stored().items() if name != "grammar"} | {"filter": ["name=a|b"]}
    assert Rollout.from_stored(older) == attrs.evolve(made, filter=('name="a|b"',))
