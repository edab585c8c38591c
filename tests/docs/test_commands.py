"""Every command in README and docs exists: scripts, configurations, verbs, flags, keys, modules."""

import importlib.util
import re
import shlex
import subprocess
from itertools import chain

import pytest
import typer.main

from tests.docs.pages import ROOT, TEXTS, block_commands, commands
from tttscale.config import load_config
from tttscale.config.schema import known_keys
from tttscale.config.shipped import shipped
from tttscale.launch.start import ScriptCommand

LINES = sorted(set(chain.from_iterable(map(commands, TEXTS))))
KEYS = {".".join(key) for key in known_keys()}
SHIPPED = shipped()
OPEN = {"model.options"}
"""Keys under which others are named by layers."""


def is_key(name):
    return name in KEYS or any(name.startswith(key + ".") for key in OPEN & KEYS)


@pytest.mark.parametrize("line", LINES)
def test_command_exists(line):
    words = [w for w in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=.*", w)]
    while words:
        stop = next((i for i, word in enumerate(words) if word in ("&&", ";", "|")), len(words))
        check(words[:stop], line)
        words = words[stop + 1 :]


@pytest.mark.parametrize("line", sorted(set(chain.from_iterable(map(block_commands, TEXTS)))))
def test_command_is_complete(line):
    """What can be copied has all arguments that its verb needs."""
    words = shlex.split(line)
    if words[0].removeprefix(".venv/bin/") == "tttscale":
        command, rest = verb(words[1:])
        needed = [p for p in command.params if p.param_type_name == "argument" and p.required]
        assert len([word for word in rest if not word.startswith("-")]) >= len(needed), line


def check(words, line):
    program = words[0].removeprefix(".venv/bin/")
    if program in ("bash", "sbatch"):
        if "-n" in words[:2] or "-c" in words[:2]:
            return
        script = next(w for w in words[1:] if not w.startswith("-"))
        assert (ROOT / script).is_file(), line
        check_arguments(words[words.index(script) + 1 :], line)
    elif program == "python":
        check_python(words[1:], line)
    elif program == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif program == "tttscale":
        check_verb(words[1:], line)
    else:
        assert program in ("git", "cd", "pip", "source", "kill", "ruff", "pre-commit", "mpirun"), (
            line
        )


def check_python(words, line):
    if words[0] == "-m" and words[1] == "tttscale":
        check_verb(words[2:], line)
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, line
    else:
        assert (ROOT / words[0]).is_file(), line


def verb(words):
    """The command that words name, and the words after it."""
    from tttscale.cli import app

    command, words = typer.main.get_command(app), list(words)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    return command, words


def check_verb(words, line):
    command, words = verb(words[: words.index("...")] if "..." in words else words)
    flags = {o for p in command.params for o in p.opts}
    if isinstance(
        command, ScriptCommand
    ):  # options of its verb may stand among its own, and a launcher's follow
        flags |= {o for p in handed_on(command, words).params for o in p.opts}
        words = words[: words.index("--")] if "--" in words else words
    elif "--" in words:  # a command of its own follows
        if (inner := words[words.index("--") + 1 :]) != ["COMMAND"]:
            check(inner, line)
        words = words[: words.index("--")]
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in flags | {"--help"}, line
    check_arguments(words, line)


def handed_on(command, words):
    """The command that the ranks run."""
    if command.name == "build-data":
        return verb(["data", "build"])[0]
    return verb([words[words.index("--verb") + 1] if "--verb" in words else "train"])[0]


def check_arguments(words, line):
    """Configurations load with the keys behind them."""
    config = next((w for w in words if w.endswith(".yaml") or w in SHIPPED), None)
    overrides = [w for w in words if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+=.*", w)]
    for override in overrides:
        assert is_key(override.split("=")[0]), line
    if config in SHIPPED:
        load_config(config, overrides)
    elif config is not None:
        assert (ROOT / config).is_file(), line
        load_config(ROOT / config, overrides)


def test_the_last_words_of_the_quickstart():
    text = (ROOT / "launch/quickstart.sh").read_text().split("Next:")[1]
    for name, value in {
        "$tttscale": "tttscale",
        "$name": "n",
        "$run": "runs/n",
        "$store": "s",
    }.items():
        text = text.replace(name, value)
    found = [line.strip() for line in text.splitlines() if line.strip().startswith("tttscale ")]
    assert len(found) == 6
    for line in found:
        test_command_exists(line)
