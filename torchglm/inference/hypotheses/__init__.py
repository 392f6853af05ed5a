"""Tests of hypotheses: linear ones, nested fits, added columns, terms; and the adjustment of many p-values."""
