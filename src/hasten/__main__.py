"""``python -m hasten``; what lies in the folder a person stands in is data, not code for imports to find.

A file ``hasten.py`` there is run by Python itself in this one's place; by the command ``hasten`` it is not, nor by
``python -P -m hasten``.
"""

import sys

import hasten

if not sys.flags.safe_path and f"{sys.path[0]}/hasten" not in hasten.__path__:
    del sys.path[0]  # Python put that folder there; it stays where hasten itself comes from it

from hasten.cli import main

main()
