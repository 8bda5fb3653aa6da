"""Tokens a second over thin links: ours, hivemind.Optimizer, all-reduce at every step.

Read first: __main__.py.
"""
