"""Mandates: every limit, cost and preference of a portfolio, as data."""
