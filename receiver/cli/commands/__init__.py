"""One module per command, each with its `run`."""
