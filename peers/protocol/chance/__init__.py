"""Chance and say: each peer's own secrets, whose turn comes first by them, and what a peer weighs.

Read first: hash_chain.py, then weighted_order.py.
"""
