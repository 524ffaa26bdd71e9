"""The stages composed, and the engines that map them."""
