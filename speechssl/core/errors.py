"""The exception for whatever the user can fix: a file, a value, a flag."""


class InputError(ValueError):
    """Bad input. The message is one sentence with the file or value and the remedy; the command line exits with code 2."""
