"""Does the model hold: tests of link, spread, zeros and fit, collinearity, separation, and what they say in words."""
