"""From texts to a token store: find the sources, slice, read and tokenize them, write the shards."""
