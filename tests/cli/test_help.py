"""What a newcomer reads, and what every command keeps to."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest

import mdashcore
from mdashcore import (
    CallTimeout,
    Forbidden,
    InvalidAnswer,
    InvalidInput,
    LimitReached,
    NotFound,
    StorageError,
    Unauthenticated,
)
from mdashcore.cli import cli
from mdashcore.cli.exits import EXIT_MEANINGS, CliError, Exit, describe, exit_of_status


def commands(command=cli, path=()):
    """Every command and group, by its words."""
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands(command.get_command(click.Context(command), name), (*path, name))


ALL = {" ".join(("mdash", *path)): command for path, command in commands()}


@pytest.mark.parametrize("words", ALL)
def test_help(mdash, words):
    """Every command has help that says in a sentence what it does, explains each option and gives examples."""
    done = mdash(*words.split()[1:], "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: {words} " in done.out
    assert ALL[words].help
    assert "Examples:\n  " in done.out
    for option in ALL[words].params:
        assert isinstance(option, click.Argument) or option.help, option.name


@pytest.mark.parametrize("words", ALL)
def test_summaries_are_whole(words):
    """In a group's list of commands no summary is cut off."""
    assert not ALL[words].get_short_help_str(limit=60).endswith("...")


@pytest.mark.parametrize("words", ALL)
def test_examples(words):
    """Every example calls a command that exists, with options that it has; one of them calls this very command."""
    lines = re.findall("^  (.*mdash .+)$", ALL[words].epilog, re.MULTILINE)
    assert any(words in line for line in lines)
    for line in lines:
        for part in re.findall(r"\bmdash ([^|)]+)", line):
            command, arguments = cli, shlex.split(part.partition(" <")[0])
            while isinstance(command, click.Group):
                command = command.get_command(click.Context(command), arguments.pop(0))
            known = {name for option in command.params for name in option.opts}
            assert {argument for argument in arguments if argument.startswith("--")} <= known, line


@pytest.mark.parametrize("words", [words for words, command in ALL.items() if isinstance(command, click.Group)])
def test_a_group_alone(mdash, words):
    """A group without a command shows its help, on stderr, and is wrong usage."""
    done = mdash(*words.split()[1:])
    assert (done.code, done.out) == (2, "")
    assert f"Usage: {words} " in done.err


def test_unknown_commands(mdash):
    """A misspelt command is told, with the one that was meant."""
    done = mdash("srve")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "'srve'" in done.err


def test_version(run):
    """The version is the package's."""
    assert run("--version").out == f"mdash {mdashcore.__version__}\n"


def test_as_a_module():
    """`python -m mdashcore.cli` is the same command."""
    done = subprocess.run([sys.executable, "-m", "mdashcore.cli", "srve"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: No such command 'srve'")


def blocked(*modules: str, then: str) -> subprocess.CompletedProcess[str]:
    """A Python program without these modules, as if they were not installed."""
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
{then}
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("missing", ["click", "quart"])
def test_what_is_not_installed_is_named(missing):
    """Without the extra of the server, or with half of it: a line says what to install; there is no traceback."""
    run = "from mdashcore.__main__ import main; sys.argv[1:] = ['serve', '--store', 'memory://']; sys.exit(main())"
    done = blocked(missing, then=run)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.endswith("pip install 'mdashcore[server]'")


def test_a_store_without_its_library_names_the_extra():
    """`redis://` says what to install."""
    run = "from mdashcore.cli import main; sys.exit(main(['store', 'check', 'redis://127.0.0.1/0']))"
    done = blocked("hiredis", then=run)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert "the storage backend for redis:// cannot be loaded" in line
    assert line.endswith("it needs hiredis: pip install 'mdashcore[redis]'")


def test_help_loads_little():
    """Help does not wait for what the commands work with."""
    program = "import sys; from mdashcore.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "click" in loaded
    assert not loaded & {"rich", "httpx", "trio", "trio_websocket", "quart", "hypercorn", "argon2", "cattrs"}
    modules = {name for name in done.stderr.split() if name.startswith("mdashcore.")}
    assert modules == {"mdashcore._errors", *(f"mdashcore.cli{part}" for part in ("", ".exits", ".groups", ".text"))}


def test_the_help_of_a_command_is_its_own():
    """The list of commands, which imports none of them, has each with the line that the command gives itself."""
    context = click.Context(cli)
    help = cli.get_help(context)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command.name == name
        assert re.search(rf"^ +{name} +{re.escape(command.get_short_help_str(200))}$", help, re.MULTILINE), name


def test_exit_codes_are_told(mdash):
    """The help has the whole table of exit codes."""
    out = mdash("--help").out
    assert set(EXIT_MEANINGS) == set(Exit)
    for code, meaning in EXIT_MEANINGS.items():
        assert re.search(rf"^ +{code} {re.escape(meaning)}$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (CliError("x", Exit.UNREACHABLE), "x", 3),
        (CliError("several\n lines\x1b[1m"), r"several lines\x1b[1m", 1),
        (InvalidInput("x"), "x", 2),
        (Unauthenticated("x"), "x", 4),
        (Forbidden("x"), "x", 4),
        (StorageError("x"), "x", 3),
        (NotFound("x"), "x", 1),
        (CallTimeout("x"), "x", 5),
        (InvalidAnswer("x"), "x", 1),
        (LimitReached("devices", "x", retry_after=0.0), "x", 1),
        (LimitReached("uploads", "x", retry_after=1.0), "x", 5),
        (PermissionError(13, "Permission denied", "/f"), "/f: Permission denied", 1),
        (BrokenPipeError(), "", 1),
        (KeyboardInterrupt(), "", 130),
        (BaseExceptionGroup("", [BaseExceptionGroup("", [Unauthenticated("x")])]), "x", 4),
    ],
)
def test_errors(error, line, code):
    """What ends a command is one line, and the code of the table, also where Trio has made a group of it."""
    assert describe(error) == (line, code)


@pytest.mark.parametrize("error", [ValueError("x"), BaseExceptionGroup("", [CliError("x"), ZeroDivisionError()])])
def test_defects_are_not_hidden(error):
    """An unforeseen error is a defect of the program: it keeps its traceback."""
    assert describe(error) is None


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1), (401, 4), (403, 4), (404, 1), (422, 1), (429, 5), (500, 1), (503, 5), (504, 5)]
)
def test_statuses(status, code):
    """What a server's status means for the exit code."""
    assert exit_of_status(status) == code
