"""What measurements share: swarms in network namespaces, links with rates and delays, memory.

Read first: shaped_swarm.py.
"""
