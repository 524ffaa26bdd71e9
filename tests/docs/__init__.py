"""Tests of README and docs/: what they show is run, and the site is built."""
