"""`python -m guardpass`."""

from .cli import main

main()
