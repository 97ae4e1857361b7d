"""`python -m blastscope` is the command line."""

from blastscope.cli import main

if __name__ == "__main__":
    main()
