"""Requests between peers, finding each other, limits on bandwidth, and who behaves how.

It imports from protocol and codec. Only p2pd/ knows hivemind and libp2p.

Read first: transport.py.
"""
