"""HTTP for the page and for a volunteer's metrics: a server that strangers can neither fill nor misuse.

It imports from recipes alone.

Read first: server.py, then connections.py and hosts.py.
"""
