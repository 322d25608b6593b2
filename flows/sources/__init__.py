"""Where texts and rows come from."""
