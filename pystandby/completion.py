"""Completion of command lines by bash, zsh and fish: click's machinery, told that a first word is a verb or else a restore's.

A shell runs us with no arguments, and in the environment what to complete. With arguments the variable means nothing: left in a
server's environment it must not turn a restore into a completion, which ends with 0.
"""

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, shell_complete

from pystandby import exits
from pystandby.exits import StandbyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VARIABLE = "_PYSTANDBY_COMPLETE"
"""The environment variable by which a shell asks: SHELL_source for its script, SHELL_complete for the words that fit."""


def complete(restore: click.Command, verbs: "Mapping[str, click.Command]", instruction: str) -> int:
    """Print what a shell has asked for by ``instruction``, the variable's value; return 0. Raises StandbyError for any other."""
    if shell_complete(_Completed(restore, verbs), {}, "pystandby", VARIABLE, instruction):
        raise StandbyError(
            exits.USAGE,
            f'{VARIABLE} is "{instruction}", which no shell asks for',
            "It is one of bash, zsh and fish, with _source or _complete.",
            f"Take {VARIABLE} out of the environment.",
        )
    return 0


class _Completed(click.Group):
    """The whole command line: the first word is a verb, an option of a restore, or its archive."""

    def __init__(self, restore: click.Command, verbs: "Mapping[str, click.Command]") -> None:
        options = [option for option in restore.params if isinstance(option, click.Option)]
        super().__init__("pystandby", commands=dict(verbs), params=[*options], context_settings=restore.context_settings)
        self._restore = restore

    def make_context(
        self, info_name: "str | None", args: "list[str]", parent: "click.Context | None" = None, **extra: "Any"
    ) -> click.Context:
        """What the words before the one to be completed mean; as cli.main() decides."""
        command: click.Command = self
        if args:
            command, args = (self.commands[args[0]], args[1:]) if args[0] in self.commands else (self._restore, args)
        if command is self:
            return super().make_context(info_name, args, parent, **extra)
        return command.make_context(info_name, args, parent, **extra)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """The options or verbs that fit; a folder where none does."""
        # The folder first: bash takes words for it that come after.
        found = super().shell_complete(ctx, incomplete)
        return found if incomplete.startswith("-") else [CompletionItem(incomplete, type="dir"), *found]
