"""One volunteer's training, and the commands that volunteers run.

It imports from everything else; nothing imports it but its own demo.

Read first: join.py, from top to bottom: a volunteer's whole life.
"""
