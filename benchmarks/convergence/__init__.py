"""Loss at equal tokens: ways to train, side by side, all workers in one process.

Read first: __main__.py.
"""
