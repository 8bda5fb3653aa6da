"""A peer's state on disk: the canonical weights, snapshots, and the chain.

It imports from what is pure.

Read first: canonical_state.py.
"""
