"""`python -m harness`."""

from harness.cli import main

# a spawned engine imports this module again, under another name
if __name__ == "__main__":
    main()
