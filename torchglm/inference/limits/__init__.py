"""Limits where the likelihood, not a quadratic, says how far: profiles of coefficients and of shape parameters."""
