"""``python -m axon_core`` is ``axon``."""

from axon_core.cli import main

main()
