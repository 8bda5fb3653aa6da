"""From command to first counted contribution, beside hivemind's state download.

Read first: __main__.py.
"""
