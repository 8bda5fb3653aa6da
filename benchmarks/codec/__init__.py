"""The codec beside hivemind's and SparseLoCo's: bits, error, speed, memory.

Read first: __main__.py.
"""
