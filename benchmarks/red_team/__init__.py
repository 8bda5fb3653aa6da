"""Cheats in real swarms: what they gain, when they are found, who else loses.

Read first: __main__.py.
"""
