"""How things are written and hashed: canonical JSON, BLAKE3 trees, files written whole.

It imports only recipes/errors.py.

Read first: canonical.py.
"""
