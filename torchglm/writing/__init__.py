"""How numbers are written, and files: what every room that says or keeps something needs."""
