"""``python -m flows``: the same as ``gptworks``."""

from flows.cli.entry import main

if __name__ == "__main__":
    main()
