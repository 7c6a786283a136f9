"""The scripts for the shells, from the tree of commands.

All three work alike: the words before the cursor lead to a command; behind an option with choices these are offered,
behind one that takes anything nothing, and elsewhere the command's own words.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command."""

    names: tuple[str, ...]
    takes_value: bool
    choices: tuple[str, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Node:
    """A command; the program itself is the one without a path."""

    path: tuple[str, ...]
    summary: str
    options: tuple[Option, ...]
    children: tuple["Node", ...]
    words: tuple[str, ...]
    """Choices of its arguments."""

    def all(self) -> Iterator["Node"]:
        """It and all below it."""
        yield self
        for child in self.children:
            yield from child.all()


def bash(program: str, root: Node) -> str:
    """For bash 3.2 and later."""
    lines = [
        f"# {program}: completion for bash.",
        "_realtime_service() {",
        '    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} at="" words="" i',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$at ${COMP_WORDS[i]}" in',
        *(
            f"            {_quoted(_step(node))}) at={_quoted(_at(node))} ;;"
            for node in root.all()
            if node.path
        ),
        "        esac",
        "    done",
        '    case "$at|$previous" in',
    ]
    for node, option in _with_value(root):
        patterns = "|".join(_quoted(f"{_at(node)}|{name}") for name in option.names)
        lines.append(f"        {patterns}) words={_quoted(' '.join(option.choices))} ;;")
    lines += ['        *) case "$at" in']
    for node in root.all():
        names = [name for option in node.options for name in option.names]
        words = [*(child.path[-1] for child in node.children), *node.words, *names]
        lines.append(f"            {_quoted(_at(node))}) words={_quoted(' '.join(words))} ;;")
    return "\n".join(
        [
            *lines,
            "        esac ;;",
            "    esac",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            f"complete -F _realtime_service {program}",
            "",
        ]
    )


def zsh(program: str, root: Node) -> str:
    """For zsh 5; as a file in `fpath`, or sourced."""
    lines = [
        f"#compdef {program}",
        "_realtime_service() {",
        '    local at="" word',
        "    local -a commands options",
        '    for word in "${(@)words[2,CURRENT-1]}"; do',
        '        case "$at $word" in',
        *(
            f"            {_quoted(_step(node))}) at={_quoted(_at(node))} ;;"
            for node in root.all()
            if node.path
        ),
        "        esac",
        "    done",
        '    case "$at|${words[CURRENT-1]}" in',
    ]
    for node, option in _with_value(root):
        patterns = "|".join(_quoted(f"{_at(node)}|{name}") for name in option.names)
        offer = f"compadd -- {' '.join(map(_quoted, option.choices))}; " if option.choices else ""
        lines.append(f"        {patterns}) {offer}return ;;")
    lines += ["    esac", '    case "$at" in']
    for node in root.all():
        commands = [_described(child.path[-1], child.summary) for child in node.children]
        commands += [_described(word, "") for word in node.words]
        options = [_described(name, option.summary) for option in node.options for name in option.names]
        lines.append(
            f"        {_quoted(_at(node))}) commands=({' '.join(commands)}) options=({' '.join(options)}) ;;"
        )
    return "\n".join(
        [
            *lines,
            "    esac",
            "    if (( $#commands )); then _describe -t commands command commands; fi",
            "    if [[ $PREFIX == -* || $#commands -eq 0 ]]; then _describe -o -t options option options; fi",
            "}",
            'if [[ "$funcstack[1]" == _realtime_service ]] || [[ "$funcstack[1]" == "_'
            + program
            + '" ]]; then',
            '    _realtime_service "$@"',
            "else",
            f"    compdef _realtime_service {program}",
            "fi",
            "",
        ]
    )


def fish(program: str, root: Node) -> str:
    """For fish 3."""
    lines = [f"# {program}: completion for fish.", f"complete -c {program} -f"]
    for node in root.all():
        here = _quoted(_seen(node, excluding=node.children))
        for child in node.children:
            words = f"-a {child.path[-1]} -d {_quoted(child.summary)}"
            lines.append(f"complete -c {program} -n {here} {words}")
        if node.words:
            lines.append(f"complete -c {program} -n {here} -a {_quoted(' '.join(node.words))}")
        for option in node.options:
            names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
            value = ["-x", *([f"-a {_quoted(' '.join(option.choices))}"] if option.choices else [])]
            words = " ".join(
                [*names, *(value if option.takes_value else []), f"-d {_quoted(option.summary)}"]
            )
            lines.append(f"complete -c {program} -n {here} {words}")
    return "\n".join([*lines, ""])


SCRIPTS: Final[dict[str, Callable[[str, Node], str]]] = {"bash": bash, "fish": fish, "zsh": zsh}


def _with_value(root: Node) -> Iterator[tuple[Node, Option]]:
    for node in root.all():
        for option in node.options:
            if option.takes_value:
                yield node, option


def _at(node: Node) -> str:
    return " ".join(node.path)


def _step(node: Node) -> str:
    """Where one was, and the word that leads here."""
    return f"{' '.join(node.path[:-1])} {node.path[-1]}"


def _seen(node: Node, *, excluding: tuple[Node, ...]) -> str:
    """fish's condition for being at this command, and at none below it."""
    seen = [f"__fish_seen_subcommand_from {word}" for word in node.path]
    below = " ".join(child.path[-1] for child in excluding)
    return "; and ".join([*seen, *([f"not __fish_seen_subcommand_from {below}"] if below else [])]) or "true"


def _described(word: str, summary: str) -> str:
    """An entry of zsh's `_describe`."""
    escaped = word.replace(":", r"\:")
    return _quoted(f"{escaped}:{summary}" if summary else escaped)


def _quoted(text: str) -> str:
    """In single quotes, for all three shells."""
    return "'" + text.replace("'", "'\\''") + "'"
