"""`python -m tttscale`."""

from tttscale.cli import main

if __name__ == "__main__":
    main()
