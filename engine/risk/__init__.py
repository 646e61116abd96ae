"""Factor covariance, specific risk, and the model that a book is measured with."""
