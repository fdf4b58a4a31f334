"""`python -m gossipnode` is `gossipnode`."""

from gossipnode.cli import main

main()
