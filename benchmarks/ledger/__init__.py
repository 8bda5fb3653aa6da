"""How fast a ledger is verified, and in how much memory.

Read first: __main__.py.
"""
