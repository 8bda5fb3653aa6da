"""Fetching what this peer lacks: a run, data, snapshots; and bringing the state to a block.

It imports from exchange and what is below it.

Read first: state_sync.py.
"""
