"""Side-by-side measurements, each one command that prints a table and writes JSON.

It imports from everything else, and nothing imports it.

Read first: newcomers/__main__.py, as an example.
"""
