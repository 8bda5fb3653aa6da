"""The page's templates, and what fills them.

It imports from web.

Read first: views.py.
"""
