"""One claim replayed by anybody, from an export and public data.

It imports from ledger and what is below it.

Read first: replay_claim.py.
"""
