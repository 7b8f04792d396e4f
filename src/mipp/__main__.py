"""`python -m mipp` is the command `mipp`."""

from mipp.cli import main

main()
