"""What a recipe may say: its fields, units and bounds, and what is wrong with one that says it wrong.

It imports from keys and errors.

Read first: recipe.py.
"""
