"""Numbers in sentences."""


def count(number: int, noun: str) -> str:
    """1 row, 1,200 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
