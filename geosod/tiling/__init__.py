"""Where tiles lie, and which are worked on together."""
