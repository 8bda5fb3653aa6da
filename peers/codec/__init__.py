"""The sparse codec: a contribution's largest values of each chunk, as bits on the wire.

Pure. It imports only from protocol and recipes.

Read first: codec.py, beside chunk_layout.py, which has the bits.
"""
