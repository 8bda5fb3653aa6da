"""Requests between peers, finding each other, limits on bandwidth, and how other peers behave.

It imports from protocol and codec. transport.py is the interface, p2pd/ the real transport, loopback.py one
within a process. Only p2pd/ knows hivemind and libp2p.

Read first: transport.py.
"""
