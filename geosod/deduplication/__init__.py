"""One dataset from the outputs of scenes that overlap, with every object in it once."""
