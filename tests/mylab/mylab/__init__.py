"""A lab's own method, network and dataset, outside the project; the tests put this folder on the path."""
