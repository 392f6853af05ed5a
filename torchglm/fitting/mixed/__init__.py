"""Random effects: covariances of effects by group, their marginal likelihood, and the search for its maximum."""
