"""Measures of a trained model, and what to compare them with."""
