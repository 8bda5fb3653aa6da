"""The peer's side of training: the interface of trainers, and windows from their start to their claim.

It imports from sync and the packages below it.

Read first: interface.py.
"""
