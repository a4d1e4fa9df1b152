"""Shared by all commands: options as dataclass fields, the command line, signals, the next step."""
