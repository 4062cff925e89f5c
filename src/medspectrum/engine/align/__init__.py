"""Bringing one image onto another: descriptors, an affine start, dense steps, and what carries them."""
