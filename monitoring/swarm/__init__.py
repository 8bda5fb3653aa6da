"""From blocks to a picture of the swarm: peers, rounds, times, losses.

It imports from peers and recipes.

Read first: watch.py.
"""
