"""The block tree: which blocks are valid, which branch is followed, what is final.

Pure. It imports from protocol and credit.

Read first: chain.py.
"""
