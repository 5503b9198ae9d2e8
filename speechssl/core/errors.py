"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the file or value and the remedy; the command line exits with code 2."""
