"""Scenarios: what a shock says, before anyone works out what it does."""
