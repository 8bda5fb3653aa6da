"""What to train: the recipe, its signature, and the data, tokenizer and first weights that it names.

It imports from nothing else of the project. On its ground lie errors.py, formats/, keys/ and schema/.

Read first: publish.py, which makes a run of a recipe, and schema/recipe.py, which reads one.
"""
