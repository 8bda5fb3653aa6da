"""The engine in virtual time, over virtual links, under drawn faults, with what must always hold.

It imports from everything below it but node.

Read first: simulator.py, then scenario.py.
"""
