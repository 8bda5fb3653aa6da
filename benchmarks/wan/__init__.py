"""Rounds of real peers over bad links.

Read first: __main__.py.
"""
