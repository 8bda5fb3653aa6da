"""Codecs: a contribution's chunks as bytes on the wire. The real one keeps each chunk's largest values.

Pure. It imports only from protocol and recipes.

Read first: interface.py, then sparse_codec.py beside chunk_layout.py, which has the bits.
"""
