"""`python -m aced`, which is also how torchrun starts it: `torchrun ... -m aced train ...`."""

from aced.cli import main

if __name__ == "__main__":
    main()
