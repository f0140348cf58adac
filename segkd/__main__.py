"""``python -m segkd``: the command line."""

from segkd.cli import main

main()
