"""The page and its JSON API.

It imports from metrics and what is below it.

Read first: app.py.
"""
