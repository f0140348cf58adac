"""``python -m segkd``: the command line."""

from segkd.cli import main

if __name__ == "__main__":
    main()
