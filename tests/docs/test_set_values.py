"""The guide to jobs: its commands, executed on a demo."""

from __future__ import annotations

import re

GUIDE = "docs/how_to_guides/set_values_of_many_devices.md"


def test_the_commands_do_what_the_page_says(page, start, welcome, run):
    """The preview counts the devices of the demo, the job changes them, and its results can be listed."""
    guide = page(GUIDE)
    with start("exec mdash demo --bind 127.0.0.1:0") as process:
        demo = welcome(process)

        def do(mark, job=""):
            return run(guide.code(mark), env={**demo.variables, "JOB": job}, cwd=demo.firmware.parent)

        preview = do("preview").stdout
        assert preview.startswith("3 of 3 devices would change, 0 have the values already, 0 cannot take them\n")
        assert "1\tinterval\t30\t60\n" in preview
        assert "2\tinterval\t-\t60\n" in preview
        created = do("create")
        assert created.stdout == "COMPLETED: 3 changed, 0 had the values already, 0 failed\n"
        id = re.search(r"job_\w+", created.stderr)[0]
        shown = do("show", id).stdout
        assert f"{id}\treport less\tCOMPLETED\t3 of 3 done" in shown
        assert shown.count("\tCHANGED\t") == 3
        do("waiting")
        assert do("preview").stdout.startswith("0 of 3 devices would change, 3 have the values already")
