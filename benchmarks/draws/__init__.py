"""How far a coalition moves the draws of audits and leaders, by the chain's own code.

Read first: game.py, then __main__.py.
"""
