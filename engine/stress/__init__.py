"""From what a scenario says to what every security and book loses."""
