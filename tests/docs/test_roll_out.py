"""The guide to rollouts: its commands, executed on a demo."""

from __future__ import annotations

import re

GUIDE = "docs/how_to_guides/roll_out_to_a_fleet.md"


def test_the_commands_do_what_the_page_says(page, start, welcome, run):
    """A rollout to every device is planned, performed and shown; another one waits for an approval, and is aborted."""
    guide = page(GUIDE)
    with start("exec mdash demo --bind 127.0.0.1:0") as process:
        demo = welcome(process)

        def do(mark, rollout=""):
            return run(guide.code(mark), env={**demo.variables, "ROLLOUT": rollout}, cwd=demo.firmware.parent)

        assert len(do("look").stdout.splitlines()) == 3
        created = do("create")
        assert created.stdout == "COMPLETED: 3 of 3 devices succeeded, 0 failed\n"
        id = re.search(r"rol_\w+", created.stderr)[0]
        assert do("look").stdout == "", "all of them run it"
        shown = do("show", id).stdout
        assert f"{id}\tfw.zip\tCOMPLETED\t3 of 3 succeeded" in shown
        assert "2 (100 %)\t2\t0\t0\t2\t0\t0" in shown
        careful = do("careful").stdout.split("\t")
        assert careful[1:] == ["AWAITING_APPROVAL", "3\n"]
        assert do("approve", careful[0]).stdout.split() == [careful[0], "RUNNING"]
        assert do("stop", careful[0]).stdout.split() == [careful[0], "PAUSED", careful[0], "ABORTING"]


def test_the_defaults_are_those_that_the_page_names(page):
    """In words that a reader may rely on."""
    from mdashcore.rollout import Plan

    plan = Plan()
    assert plan.phases == (1, 10, 100)
    assert (plan.rate, plan.success_percent, plan.error_percent, plan.offline_wait) == (60, 95, 10, 7 * 86_400)
    text = " ".join(page(GUIDE).text.split())
    assert "phases of 1, 10 and 100 percent, 60 devices a minute, 95 percent success, a pause at more than 10" in text
