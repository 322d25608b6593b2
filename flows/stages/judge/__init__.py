"""A sitting of the judge, and what it says of it."""
