"""`python -m canaryproxy` is the `canaryproxy` command."""

from canaryproxy.cli import main

main()
