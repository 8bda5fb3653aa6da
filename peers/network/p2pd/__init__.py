"""The network daemon p2pd: its process, streams and notice board, through hivemind.

It imports from protocol. Nothing else in the project imports hivemind.

Read first: supervisor.py.
"""
