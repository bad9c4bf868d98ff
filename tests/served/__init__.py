"""Tests of one arcray that the command line started. A package, so that it ends with the last of them."""
