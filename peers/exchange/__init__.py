"""Contributions, error feedback, averages, and moving segments between peers.

It imports from state and what is below it.

Read first: contributor.py.
"""
