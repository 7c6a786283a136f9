"""`realtime-service completion`: a script with which a shell completes commands, options and choices.

Law: the script is made from the parsers themselves and holds all it needs; completing starts no Python.
"""

import argparse
from typing import Final

from realtime_service import cli
from realtime_service.cli.completion_scripts import SCRIPTS, Node, Option
from realtime_service.cli.outcome import Exit

_EPILOG: Final = """\
Prints the script and nothing else. `realtime-service` must be on PATH by that name.

examples:
  source <(realtime-service completion bash)      # in ~/.bashrc, to keep it
  realtime-service completion bash > ~/.local/share/bash-completion/completions/realtime-service
  realtime-service completion zsh > "${fpath[1]}/_realtime-service"
  realtime-service completion fish > ~/.config/fish/completions/realtime-service.fish
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.description = "Print a script with which a shell completes the words of this program."
    parser.epilog = _EPILOG
    parser.add_argument("shell", choices=sorted(SCRIPTS), metavar="SHELL", help="bash, fish or zsh")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print(SCRIPTS[args.shell](cli.PROGRAM, tree()), end="")
    return Exit.OK


def tree() -> Node:
    """Every command with its words."""
    return _node((), "", cli.parser_of(cli.COMMANDS))


def _node(path: tuple[str, ...], summary: str, parser: argparse.ArgumentParser) -> Node:
    options: list[Option] = []
    children: list[Node] = []
    words: list[str] = []
    for action in parser._actions:  # argparse has no other way to ask
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            children = [_node((*path, name), summaries[name], sub) for name, sub in action.choices.items()]
        elif action.option_strings:
            options.append(
                Option(
                    tuple(action.option_strings),
                    takes_value=action.nargs != 0,
                    choices=tuple(map(str, action.choices or ())),
                    summary=(action.help or "") % {**vars(action), "prog": parser.prog},
                )
            )
        else:
            words += map(str, action.choices or ())
    return Node(path, summary, tuple(options), tuple(children), tuple(words))
