"""Errors that a user can cause: their message is one line (what, expected, got, remedy) and needs no traceback."""


class InputError(ValueError):
    """Something the user gave (a flag, a file, a data set) cannot be used; the commands print it and exit with 1."""


class OtherClassesError(InputError):
    """A checkpoint knows other classes than the data set has."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that the user named does not exist."""
