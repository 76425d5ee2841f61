"""Tab completion: the script of a shell, and what may stand at the end of a command line."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import TYPE_CHECKING, Any

from quala.cli.entry import VERBS

if TYPE_CHECKING:
    from pathlib import Path

    from quala.workflow.script import WorkflowSpec

BASH = """_quala() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
        COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
            "$1" completion bash --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -o nospace -F _quala quala
"""
ZSH = """#compdef quala
_quala() {
    local word about
    local -a ended told open told_open
    while IFS=$'\\t' read -r word about; do
        if [[ $word == *' ' ]]; then
            word=${word% }
            ended+=("$word"); told+=("$word${about:+  -- $about}")
        else
            open+=("$word"); told_open+=("$word${about:+  -- $about}")
        fi
    done < <("$words[1]" completion zsh --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)
    local -a list; [[ "$told$told_open" == *'  -- '* ]] && list=(-l)
    (( $#ended )) && compadd $list -d told -a ended
    (( $#open )) && compadd $list -S '' -d told_open -a open
    (( $#ended + $#open ))
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i; }
compdef _quala quala
"""
FISH = """function __quala_complete
    set -l words (commandline -opc)
    $words[1] completion fish --line (commandline -pc | string collect) 2>/dev/null
end
complete -c quala -f -a '(__quala_complete)'
"""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
USAGE = """usage: quala completion {bash,zsh,fish}

Print what completes verbs, options, workflows, groups and their values by Tab. It is one line in
the file that the shell reads at its start:

  ~/.bashrc                   eval "$(quala completion bash)"
  ~/.zshrc                    eval "$(quala completion zsh)"
  ~/.config/fish/config.fish  quala completion fish | source

"""
OPEN = ("=", ".", "/", ",", "[", "@")
"""How a candidate ends after which more of the same word follows."""
Found = Iterator[tuple[str, str]]
"""Candidates for the last word, each with a text on it."""

CHECKED = {
    "--json": "print one line of JSON at the end",
    "--config-dir": "a folder with configurations of your own",
    "--config-name": "the primary configuration",
    "--help": "stages, experiments and groups",
}
"""Options of `quala plan`, which `quala run` has too."""
HYDRA = {
    "--multirun": "sweep over values: seed=0,1,2",
    "-m": "sweep over values: seed=0,1,2",
    "--cfg": "print the configuration, run nothing",
    "--package": "with --cfg: only this part",
    "--resolve": "with --cfg: with values in place of references",
    "--info": "print what Hydra knows",
    "--hydra-help": "Hydra's own options",
}
PARTS = ("job", "hydra", "all")
FACTS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
VALUES = {"--cfg": PARTS, "-c": PARTS, "--info": FACTS, "-i": FACTS}
STAGE_NAMES = ("flow.only", "flow.until", "flow.since", "flow.force")
_FILES = ("MODEL", "DIR", "FILE", "PATH")


def main(argv: Sequence[str]) -> int:
    """Print the script of a shell, or, for such a script, the candidates for the last word."""
    if len(argv) == 3 and argv[0] in SHELLS and argv[1] == "--line":
        sys.stdout.write(answer(argv[0], argv[2]))
    elif len(argv) == 1 and argv[0] in SHELLS:
        sys.stdout.write(SHELLS[argv[0]])
    elif not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
    else:
        from quala.errors import unknown

        raise unknown("shell", " ".join(argv), SHELLS)
    return 0


def answer(shell: str, line: str) -> str:
    """Return the candidates for the end of a command line, one a line, as a shell takes them.

    What cannot be found out, as in a broken configuration, gives none: Tab prints no errors.
    """
    words, quote = split(line)
    word = words[-1]
    found = dict[str, str]()
    with suppress(Exception, SystemExit), redirect_stdout(StringIO()):  # of code that is imported
        for text, about in candidates(words[1:]):
            if text.startswith(word):
                found.setdefault(text, about)
    # A blank ends a word; fish adds it by itself.
    ends = {text: "" if text.endswith(OPEN) or shell == "fish" else " " for text in found}
    if shell == "bash":
        start = _replaced_from(line, word, quote)
        return "".join(f"{_escaped(text[start:], quote, end)}\n" for text, end in ends.items())
    return "".join(f"{text}{ends[text]}\t{about}\n" for text, about in found.items())


def split(line: str) -> tuple[list[str], str]:
    """Return the words of a command line, the last one to be completed, and its open quote."""
    line = re.sub(r"^\s*(\w+=\S*\s+)+", "", line)  # variables of the command
    for quote in ("", "'", '"', "\\"):
        try:
            words = shlex.split(line + quote)
        except ValueError:
            continue
        if not quote and re.search(r"(?<!\\)\s$", line):
            words.append("")
        return words or [""], quote.strip("\\")
    return [""], ""


def _replaced_from(line: str, word: str, quote: str) -> int:
    """Return where in the last word begins what bash replaces: after a quote, `=`, `:` or `@`."""
    if quote:
        return len(word) - len(shlex.split(line[_opened(line, quote) :] + quote)[0])
    breaks = set(os.environ.get("COMP_WORDBREAKS", "")) - set("\"' \t\n")
    return max((word.rfind(one) + 1 for one in breaks), default=0)


def _opened(line: str, quote: str) -> int:
    return max(place for place, one in enumerate(line) if one == quote and line[place - 1] != "\\")


def _escaped(text: str, quote: str, end: str) -> str:
    special = {"": r"""([\s"'\\$`<>;|&(){}*?!#])""", '"': r'(["\\$`])'}.get(quote)
    text = re.sub(special, r"\\\1", text) if special else text
    return f"{text}{quote if end else ''}{end}"


def candidates(words: Sequence[str]) -> Found:
    """Yield what the last of the words behind `quala` may be, those that do not fit among them."""
    *before, word = words
    if not before:
        yield from ((verb, about) for verb, (_, about) in VERBS.items())
        if word.startswith("-"):
            yield from (("--help", "explain the verbs"), ("--version", "name the version"))
    elif before[0] in ("run", "plan"):
        yield from _of_workflow(before[0], before[1:], word)
    elif before[0] == "completion":
        yield from ((shell, "") for shell in SHELLS if len(before) == 1)
    elif before[0] in VERBS:
        module = importlib.import_module(f"quala.cli.{VERBS[before[0]][0].partition(':')[0]}")
        yield from _of_parser(module._parser(), before[1:], word)
        if before[0] == "compress" and len(before) > 2 and not before[-1].startswith("-"):
            yield from _of_compress(before[1:], word)


def _of_compress(before: Sequence[str], word: str) -> Found:
    from quala.workflow.script import find_workflow

    typed = ["experiment=compress", *(one for one in before if "=" in one)]
    yield from _Overrides(find_workflow("quala_minilm"), typed).found(word)


def _of_parser(parser: argparse.ArgumentParser, before: Sequence[str], word: str) -> Found:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for place, one in enumerate(before):
                if one in action.choices:
                    yield from _of_parser(action.choices[one], before[place + 1 :], word)
                    return
    options = parser._option_string_actions
    flag, given, value = word.partition("=")
    last = options.get(before[-1]) if before else None
    if given and flag in options:
        yield from ((f"{flag}={one}", about) for one, about in _argument(options[flag], value))
    elif last is not None and last.nargs != 0:
        yield from _argument(last, word)
    elif word.startswith("-"):
        yield from (
            (one, (action.help or "").replace("%%", "%"))
            for one, action in options.items()
            if one.startswith("--") and action.help != argparse.SUPPRESS
        )
    else:
        for action in parser._actions:
            if not action.option_strings:
                yield from _argument(action, word)


def _argument(action: argparse.Action, word: str) -> Found:
    names: Any = action.choices or getattr(action.type, "names", ())
    yield from ((str(one), "") for one in names)
    if action.metavar in _FILES:
        yield from _files(word)
    if action.metavar == "MODEL":
        from quala.runtime.card import shipped

        yield from ((one, "comes with quala") for one in shipped())


def _files(word: str, *, folders: bool = False) -> Found:
    place, name = os.path.split(word)
    with os.scandir(os.path.expanduser(os.path.expandvars(place)) or ".") as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
                if entry.is_dir():
                    yield f"{os.path.join(place, entry.name)}/", ""
                elif not folders:
                    yield os.path.join(place, entry.name), ""


def _of_workflow(verb: str, before: Sequence[str], word: str) -> Found:
    from quala.workflow.script import find_workflow, workflow_names, workflow_scripts

    if not before:
        scripts = workflow_scripts()
        for name in workflow_names():
            yield name, _first_line(scripts[name]) if name in scripts else ""
        for file, _ in _files(word):
            if file.endswith((".py", "/")):
                yield file, ""
        if word.startswith("-"):
            yield "--help", "explain overrides"
        return
    flag = before[-1]
    if flag in VALUES:
        yield from ((one, "") for one in VALUES[flag])
    elif flag in ("--config-dir", "-cd"):
        yield from _files(word, folders=True)
    elif flag in ("--config-name", "-cn"):
        yield from _Overrides(find_workflow(before[0]), before[1:-1]).primary.items()
    elif word.startswith("-"):
        yield from (CHECKED | (HYDRA if verb == "run" else {})).items()
    else:
        overrides = _Overrides(find_workflow(before[0]), before[1:])
        if flag in ("--package", "-p"):
            yield from ((one.rstrip("="), about) for one, about in overrides.keys(word))
        else:
            yield from overrides.found(word)


def _first_line(script: Path) -> str:
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


class _Overrides:
    """What may stand at the end of an override of a workflow.

    Groups are read from the folders of the configurations and options from their classes, which
    takes no Hydra; what only a composed configuration knows is asked of Hydra's own completion.
    """

    def __init__(self, workflow: WorkflowSpec, words: Sequence[str]) -> None:
        from quala.workflow.groups import (
            conf_folders,
            default_groups,
            options_of,
            own_groups,
            where_of,
        )

        where, rest = where_of(words)
        self.workflow, self.where = workflow, where
        self.words = [one for one in rest if "=" in one[1:] and not one.startswith("-")]
        self.folders = conf_folders(workflow, where, self.words)
        self.primary = options_of(self.folders, "")
        self.defaults = default_groups(self.folders, where.name)
        groups = own_groups(workflow, self.defaults)
        self.groups = [*(one for one in groups if options_of(self.folders, one)), "experiment"]

    def found(self, word: str) -> Found:
        sign = (re.match(r"[+~]*", word) or [""])[0]
        body = word.removeprefix(sign)
        key, given, value = body.partition("=")
        if not given:
            names = self._names(sign, body)
        else:
            # A sweep or a list: the last of its values is completed.
            done = value[: max(value.rfind(","), value.rfind("[")) + 1]
            used = set(done.strip("[").split(",")) if done else set()
            found = self._values(key, value.removeprefix(done))
            names = ((f"{key}={done}{one}", about) for one, about in found if one not in used)
        yield from ((sign + name, about) for name, about in names)

    def _names(self, sign: str, body: str) -> Found:
        if body.startswith(("hydra/", "hydra.")):
            yield from self._of_hydra(body)
            return
        if body and "hydra".startswith(body):
            yield from (("hydra.", "Hydra's own options"), ("hydra/", "Hydra's own groups"))
        yield from self._group_names(sign, body)
        if "@" not in body:
            yield from self.keys(body)

    def _group_names(self, sign: str, body: str) -> Found:
        from quala.workflow.groups import added_groups

        group, placed, key = body.partition("@")
        if placed:
            for name, about in self.keys(key):
                if name.endswith("."):
                    yield f"{group}@{name}", about
                    yield f"{group}@{name.removesuffix('.')}=", about
            return
        if sign.startswith("+"):
            found = added_groups(self.folders, self.defaults)
            yield from ((f"{one}{'=' if placed else '@'}", "") for one, placed in found.items())
        for one in self.groups:
            first, inside, _ = one.partition("/")
            if inside and not body.startswith(f"{first}/"):
                yield f"{first}/", "the presets of each stage"
            else:
                now = f", {self.defaults[one]} by default" if one in self.defaults else ""
                yield one if sign == "~" else f"{one}=", f"a group{now}"

    def keys(self, body: str) -> Found:
        from quala.workflow.options import options_at

        parent = body.rpartition(".")[0]
        options = options_at(self.workflow, parent)
        for name, one in options.items():
            more = "." if one.config is not None or one.mapping else "="
            about = re.split(r"(?<=\w)[.;:] ", one.about)[0].removesuffix(".")
            yield (f"{parent}.{name}" if parent else name) + more, about
        if parent and not options:
            yield from self._of_hydra(body)

    def _values(self, key: str, value: str) -> Found:
        from quala.workflow.groups import experiments_of, options_of
        from quala.workflow.options import option_at

        group, option = key.partition("@")[0], option_at(self.workflow, key)
        if group.startswith("hydra/"):
            found = (one.partition("=")[2] for one, _ in self._of_hydra(f"{key}="))
            yield from ((one, "") for one in found)
        elif group == "experiment":
            yield from experiments_of(self.workflow, self.folders).items()
        elif group in self.groups or (option is None and "." not in group):
            yield from options_of(self.folders, group).items()
        elif key in STAGE_NAMES:
            yield from ((name, one.summary) for name, one in self.workflow.stages.items())
        elif option is not None and option.values:
            yield from ((one, "") for one in option.values)
        elif (option is not None and option.place) or key.startswith("model."):
            yield from _files(value)
        else:
            yield from self._current(key)

    def _of_hydra(self, body: str) -> Found:
        """Yield what Hydra's own completion finds: its groups, and keys of a composed whole."""
        from hydra.core.global_hydra import GlobalHydra
        from hydra.plugins.completion_plugin import CompletionPlugin, DefaultCompletionPlugin

        from quala.workflow.compose import initialized

        if "/" in body:
            with initialized(self.workflow, self.where):
                loader = GlobalHydra.instance().config_loader()
                plugin = DefaultCompletionPlugin(loader)
                found, _ = plugin._query_config_groups(body, self.where.name, self.words)
        else:
            found = CompletionPlugin._get_matches(self._composed(), body)
        yield from ((one, "") for one in found)

    def _current(self, key: str) -> Found:
        from omegaconf import OmegaConf

        from quala.redact import shown

        value = OmegaConf.select(self._composed(), key)
        text = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
        if re.fullmatch(r"[\w.+/-]+|\[[\w.,+/ -]*\]", text) and shown(text) == text:
            yield text.replace(" ", ""), "its value now"

    def _composed(self) -> Any:
        from quala.workflow.compose import composed, swept, with_experiment

        words = with_experiment(self.workflow, self.words, self.where)
        several = swept(words)
        words = [one for one in words if one not in several]
        return composed(self.workflow, words, self.where, whole=True)
