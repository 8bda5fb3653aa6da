"""Newcomers to a run of hundreds of rounds: how soon each is counted, and with which bytes.

Read first: __main__.py.
"""
