"""The peer put together: the engine bound to real time, a network, a disk and a trainer.

It imports from everything below it.

Read first: node.py.
"""
