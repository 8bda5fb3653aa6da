"""One volunteer's peer: it talks to the others, trains in rounds with them, and answers for what it claims.

Each package below imports only from those before it in this list: protocol, codec, network, credit, chain,
consensus, state, exchange, sync, training, audit, ledger, replay, calibration, node, simulation. The modules
beside them are commands.

Read first: consensus/engine.py, which decides what happens in a round, then node/node.py, which does it.
"""
