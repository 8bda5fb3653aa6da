"""Ed25519 keys, the peer ids that follow from them, and their backups.

It imports from formats and errors.

Read first: keys.py.
"""
