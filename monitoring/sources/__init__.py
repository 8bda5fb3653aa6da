"""Where blocks come from: the network, or the folder of a peer on this machine.

It imports from evaluation and swarm.

Read first: network_source.py.
"""
