"""The columns of every table: dtype, null or not, unit, sign, allowed values, key."""
