"""Fits of data that no one would wish for, and a judge of them that shares no formula with the package."""
