"""A swarm of which some are killed in every round, beside one left alone.

Read first: __main__.py.
"""
