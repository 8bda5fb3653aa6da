"""The ledger: derived from the chain, kept, exported, proven, verified, and paid out by.

It imports from audit and what is below it.

Read first: verify.py, which needs nobody's word; `python -m peers.ledger` is __main__.py.
"""
