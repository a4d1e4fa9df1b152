"""What every command shares: options as dataclass fields, the command line, signals, the next step."""
