"""The peer's side of training: what a trainer offers, and windows from their start to their claim.

It imports from sync and what is below it.

Read first: interface.py.
"""
