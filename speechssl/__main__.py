"""`python -m speechssl`, for torchrun."""

from speechssl.cli import main

main()
