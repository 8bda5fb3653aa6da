"""Audits and credit as a function of the chain: which claims are audited, what vests, what the ledger holds.

Pure, but for the command `python -m peers.credit`. It imports from protocol.

Read first: ledger.py, then accounts.py.
"""
