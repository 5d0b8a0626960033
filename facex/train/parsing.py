"""Command line and YAML to a TrainConfig, with the nearest valid name for whatever is misspelt."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from facex.data.transforms import Transform
from facex.entrypoints import nearest
from facex.errors import ConfigError
from facex.launchers import set_local_rank
from facex.methods.discovery import class_names, import_for_parsing, load_method, names_in
from facex.train.config import TrainConfig


@dataclass
class Parsed:
    """A configuration three times: built, as plain data, and as the YAML that is saved with the run."""

    config: TrainConfig
    resolved: dict[str, Any]
    text: str


def build_parser() -> ArgumentParser:
    """The parser of `facex train`; plugins must have been imported for their short names to be known."""
    parser = ArgumentParser(
        prog="facex train",
        description="Train a method on faces. Options come from --config (YAML), each may be overridden here; "
        "`--method NAME --help` shows a method's own options too.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, None)
    return parser


def parse(argv: list[str]) -> Parsed:
    """Read `argv`, build the method under the run's seed. ConfigError says what is wrong and what was probably meant."""
    argv, block = take_launcher_options(argv)
    import_for_parsing(names_in(argv))
    method = _method_name(argv)
    if method is not None:
        load_method(method)
    parser = build_parser()
    if method is not None and ("--help" in argv or "-h" in argv):
        parser.print_help()  # the run's options, then the method's own
        argv = [f"--method.help={method}"]
    elif method is not None and "--method.help" in argv:
        argv = [f"--method.help={method}"]  # without a name it would describe the base class
    try:
        with _program_name():
            cfg = parser.parse_args(argv)
    except Exception as error:
        raise ConfigError(explain(str(error), parser)) from error
    if block is not None:
        cfg.deepspeed = block
    return _build(parser, cfg)


def parse_object(options: dict[str, Any]) -> Parsed:
    """A configuration from plain data, nested as in YAML."""
    import_for_parsing(class_names(options))
    parser = build_parser()
    try:
        cfg = parser.parse_object(options)
    except Exception as error:
        raise ConfigError(explain(str(error), parser)) from error
    return _build(parser, cfg)


@contextmanager
def _program_name() -> Iterator[None]:
    """The help of a class (`--method.help`) takes the name of the program from sys.argv."""
    before, sys.argv = sys.argv, ["facex train", *sys.argv[1:]]
    try:
        yield
    finally:
        sys.argv = before


def _build(parser: ArgumentParser, cfg: Namespace) -> Parsed:
    cfg.pop("config", None)
    text = parser.dump(cfg)
    resolved = yaml.safe_load(text)
    torch.manual_seed(int(cfg.trainer.seed))  # networks start the same in every run with this seed, and on every rank
    try:
        built = parser.instantiate(cfg)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the method cannot be built: {error}") from error
    return Parsed(TrainConfig(**built.as_dict()) if isinstance(built, Namespace) else built, resolved, text)


def take_launcher_options(argv: list[str]) -> tuple[list[str], dict[str, Any] | None]:
    """Take out what DeepSpeed's users type: `--local_rank N`, `--deepspeed`, `--deepspeed_config FILE` (its content
    replaces the `deepspeed:` block)."""
    rest: list[str] = []
    block: dict[str, Any] | None = None
    words = iter(range(len(argv)))
    for place in words:
        word, _, inline = argv[place].partition("=")
        following = argv[place + 1] if place + 1 < len(argv) else None
        if word in ("--local_rank", "--local-rank", "--deepspeed_config", "--deepspeed-config"):
            if not inline:
                if following is None:
                    raise ConfigError(f"{word} needs a value")
                inline = following
                next(words, None)
            if "local" in word:
                set_local_rank(word, inline)
            else:
                block = read_deepspeed_config(Path(inline))
        elif word == "--deepspeed" and not inline and (following is None or following.startswith("--")):
            continue
        else:
            rest.append(argv[place])
    return rest, block


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """A DeepSpeed JSON file as a dict."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--deepspeed_config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--deepspeed_config {path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--deepspeed_config {path} holds no JSON object")
    return content


def _method_name(argv: list[str]) -> str | None:
    for place, word in enumerate(argv):
        if word.startswith("--method="):
            return _plain(word.partition("=")[2])
        if word == "--method" and place + 1 < len(argv):
            return _plain(argv[place + 1])
    return None


def _plain(value: str) -> str | None:
    return value if re.fullmatch(r"[\w.:]+", value) else None


def explain(message: str, parser: ArgumentParser) -> str:
    """The parser's message with the nearest valid name beside every unknown key and every unknown class."""
    text = message.strip()
    if found := unknown_class(text):
        return found
    known = known_keys(parser) + options_of_class(text)
    for unknown in unknown_keys(text):
        last = unknown.rsplit(".", 1)[-1]
        names = {k.rsplit(".", 1)[-1]: k for k in known}
        close = difflib.get_close_matches(unknown, known, 1, 0.6) or [
            names[n] for n in difflib.get_close_matches(last, list(names), 1, 0.6)
        ]
        if close:
            return f"unknown key '{unknown}': did you mean '{close[0]}'? [{text}]"
        return f"unknown key '{unknown}' (`facex train --help` lists the valid ones) [{text}]"
    return text


def unknown_class(text: str) -> str | None:
    """What to say when the parser's message is about a margin or a transform that does not exist; None if it is not."""
    found = re.search(r"Expected a dot import path string: (\w+)", text)
    if found is None:
        return None
    keys = re.findall(r"Parser key \"([\w.]+)\"", text[: found.start()])
    key = keys[-1].rsplit(".", 1)[-1] if keys else ""
    if key == "margin":
        from facex.heads.margins import available

        return f"there is no margin {found.group(1)!r}{nearest(found.group(1), available())}"
    if key == "transforms":
        known = {kind.__name__ for kind in _subclasses(Transform) if not inspect.isabstract(kind)}
        return f"there is no transform {found.group(1)!r}{nearest(found.group(1), known)}"
    return f"{key or 'an option'}: there is no class {found.group(1)!r} [{text}]"


def _subclasses(kind: type) -> set[type]:
    direct: set[type] = set(kind.__subclasses__())
    return direct.union(*(_subclasses(each) for each in direct))


def unknown_keys(text: str) -> list[str]:
    """The keys that a parser's message complains about."""
    if found := re.search(r"[Uu]nrecognized arguments: (.*)", text):
        return [w.partition("=")[0].lstrip("-") for w in found.group(1).split() if w.startswith("--")]
    if found := re.search(r"Group '([\w.]+)' does not accept (?:nested )?(?:option|key) '([\w.]+)'", text):
        return [f"{found.group(1)}.{found.group(2)}"]
    if found := re.search(r"(?:Key|Option|option|key) '([\w.]+)' is not (?:expected|accepted|valid|supported)", text):
        return [found.group(1)]
    if found := re.search(r"(?:does not accept|No action for|not accept) (?:\w+ )*'([\w.]+)'", text):
        return [found.group(1)]
    return []


def options_of_class(text: str) -> list[str]:
    """The options of the class that a message is about, if it is about one."""
    found = re.findall(r"class_path '([\w.]+)'", text)
    if not found:
        return []
    module, _, name = found[-1].rpartition(".")  # the innermost class
    try:
        kind = getattr(importlib.import_module(module), name)
        return [p for p in inspect.signature(kind.__init__).parameters if p != "self"]
    except (ImportError, AttributeError, ValueError):
        return []


def known_keys(parser: ArgumentParser) -> list[str]:
    """All option names, dotted."""
    return sorted({a.dest for a in parser._actions if a.dest and a.dest not in ("help", "print_config")})
