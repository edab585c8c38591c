"""Parts of a layer, each timed beside other ways to compute the same."""
