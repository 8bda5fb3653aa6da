"""The real transport: the network daemon p2pd, its process, streams and notice board, through hivemind.

It imports from protocol and the rest of network. Nothing else in the project imports hivemind.

Read first: transport.py.
"""
