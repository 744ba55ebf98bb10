"""`python -m meswitch`."""

from meswitch.cli import main

if __name__ == "__main__":
    main()
