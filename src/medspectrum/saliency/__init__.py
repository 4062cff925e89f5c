"""Explanations of a predictor's answers: what it saw, maps of what the answer hangs on, and tests of them."""
