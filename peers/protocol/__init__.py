"""What peers say to each other, and what follows from it: messages, signatures, rules, counters, timeouts.

Pure: no clock, disk, network or chance. It imports only from recipes.

Read first: messages.py.
"""
