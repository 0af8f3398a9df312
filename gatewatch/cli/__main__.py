"""`python -m gatewatch.cli`: the command line where the script `gatewatch` is not on the path."""

from gatewatch.cli import main

main()
