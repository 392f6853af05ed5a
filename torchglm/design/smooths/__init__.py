"""Smooth terms: what `s()`, `te()` and `ti()` say, the bases they learn, and the penalties that belong to them."""
