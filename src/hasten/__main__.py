"""``python -m hasten``."""

from hasten.cli import main

main()
