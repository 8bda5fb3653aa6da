"""How good the model is, measured by this observer itself.

It imports from swarm.

Read first: validating.py.
"""
