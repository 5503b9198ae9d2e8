"""The exceptions for whatever the user can fix: a file, a value, a flag."""


class InputError(ValueError):
    """Bad input. The message is one sentence with the file or value and the remedy; the command line exits with code 2."""


class DamagedError(InputError):
    """A file of which a part is missing or spoilt. reason: what is wrong, such as `truncated (16360 of 32720 samples)`."""

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(f"{name} is {reason}; copy it again or leave it out")
        self.reason = reason
