"""What a fit says."""
