"""The command line: a table of commands, nothing heavy imported until one is chosen."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from facex import __version__
from facex.entrypoints import PluginEntry, entries, find, nearest
from facex.errors import ConfigError, FacexError, TrainingError
from facex.launchers import set_local_rank, started_ranks

# Command -> (module whose `main(argv) -> int` runs it, one line of help).
COMMANDS = {
    "train": ("facex.commands.train", "train a method from a YAML config"),
    "eval": ("facex.commands.eval", "verify faces: accuracy, TAR@FAR, AUC and a report"),
    "extract": ("facex.commands.extract", "write embeddings and their lengths of images"),
    "pack": ("facex.commands.pack", "pack image folders or lists into RecordIO"),
    "synth": ("facex.commands.synth", "render a synthetic face data set"),
    "occlude": ("facex.commands.occlude", "a contact sheet of occluded pictures and their masks"),
    "convert": ("facex.commands.convert", "official checkpoints to facex and back; reshard a run"),
    "demo": ("facex.commands.demo", "render faces, train on them, verify, write the report"),
    "plan": ("facex.commands.plan", "memory, time and traffic of a training run before it starts"),
    "plugins": ("facex.commands.plugins", "list installed plugins, what they add and what fails"),
    "info": ("facex.commands.info", "versions, compiled extension, devices, backbones"),
}
# Commands that write files as one process: several of them under a launcher would write over each other.
_ONE_PROCESS = ("extract", "pack", "synth", "occlude", "convert", "demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `facex COMMAND ...`; the exit code is 0, 1 (training failed), 2 (wrong input) or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _take_local_rank(arguments)
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(help_text())
            return 0
        if arguments[0] in ("-V", "--version"):
            print(f"facex {__version__}")
            return 0
        return int(_command(arguments[0])(arguments[1:]) or 0)
    except TrainingError as error:
        return _report(error, 1)
    except FacexError as error:
        return _report(error, 2)
    except KeyboardInterrupt:
        print("facex: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone (facex plugins | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def help_text() -> str:
    """What `facex --help` prints: the core's commands and those of plugins, which are not imported."""
    plugins = [e for e in entries("facex.commands") if e.name not in COMMANDS]
    width = max(len(name) for name in [*COMMANDS, *(e.name for e in plugins)])
    lines = ["usage: facex COMMAND [options]", "", "Train and evaluate face-recognition models.", "", "commands:"]
    lines += [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    if plugins:
        lines += ["", "commands of plugins:"]
        lines += [f"  {e.name:<{width}}  from {e.distribution} {e.version}" for e in plugins]
    lines += [
        "",
        "facex COMMAND --help describes a command.",
        "Launchers: deepspeed --module facex COMMAND ..., torchrun -m facex COMMAND ...",
    ]
    return "\n".join(lines)


def _command(name: str) -> Callable[[list[str]], int | None]:
    """The function of a command; a plugin's module is imported here."""
    if name in _ONE_PROCESS and (ranks := started_ranks()) > 1:
        raise ConfigError(
            f"facex {name} runs as one process, but a launcher has started {ranks}; start it without `deepspeed` or `torchrun`"
        )
    if name in COMMANDS:
        return importlib.import_module(COMMANDS[name][0]).main
    entry: PluginEntry | None = find("facex.commands", name)
    if entry is None:
        known = [*COMMANDS, *(e.name for e in entries("facex.commands"))]
        raise ConfigError(f"there is no command {name!r}{nearest(name, known)}")
    function = entry.load()
    return function.main if hasattr(function, "main") else function


def _take_local_rank(arguments: list[str]) -> list[str]:
    """Take `--local_rank N`, which the deepspeed launcher puts before the command, and check it against LOCAL_RANK."""
    if not arguments or arguments[0].partition("=")[0] not in ("--local_rank", "--local-rank"):
        return arguments
    option, equals, value = arguments[0].partition("=")
    rest = arguments[1:]
    if not equals:
        if not rest:
            raise ConfigError(f"{option} needs a number")
        value, rest = rest[0], rest[1:]
    set_local_rank(option, value)
    return rest


def _report(error: FacexError, code: int) -> int:
    sys.stdout.flush()
    print(f"facex: error: {error}", file=sys.stderr)
    return code
