"""The risk curve becomes factor exposures."""
