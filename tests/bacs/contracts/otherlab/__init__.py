"""A package outside the project: one class that keeps each contract, and some that break it in one way."""
