"""Tokenizers, the tokens between documents, and what of a text its ids do not say."""
