"""The public verbs: read with the store, one pure verb, a value to print or write."""
