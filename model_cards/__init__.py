"""The templates of the model cards, and the citations."""
