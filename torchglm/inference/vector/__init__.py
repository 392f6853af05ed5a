"""Inference for fits of several predictors, whose score is a vector and whose weight a matrix for each row."""
