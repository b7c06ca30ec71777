"""The experiments of `system-tests/transfers.py`: one module each, with a function `run`. `shared` has what they share."""
