"""A whole swarm on this machine, from recipe to trained model.

It imports from everything else.

Read first: __main__.py.
"""
