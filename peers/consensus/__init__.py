"""The round engine: one peer's part in the round protocol, as a state machine without I/O.

Pure. It imports from protocol, credit and chain.

Read first: engine.py.
"""
