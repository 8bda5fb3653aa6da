"""How good the model is, measured here and taken from nobody.

It imports from swarm.

Read first: validating.py.
"""
