"""The command: arguments to flows, no logic of its own. Each command's module is loaded only when it is called."""

from receiver.cli.frame import main

__all__ = ["main"]
