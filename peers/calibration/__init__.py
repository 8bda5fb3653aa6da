"""How far honest replays differ, how cheats do, and thresholds between the two.

It imports from replay and what is below it.

Read first: margins.py.
"""
