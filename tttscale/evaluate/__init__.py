"""Measures of a trained model, and what to hold them against."""
