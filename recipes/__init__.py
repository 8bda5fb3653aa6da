"""What to train: the recipe, its signature, and the data, tokenizer and first weights that it names."""
