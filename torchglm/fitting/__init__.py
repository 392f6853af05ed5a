"""How coefficients are found."""
