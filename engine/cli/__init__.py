"""Commands: read, one verb, write. One file for each group; each loads its libraries when called."""
