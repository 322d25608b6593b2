"""May a challenger take the champion's place? Evidence on the same items, a pure decision, and its table."""
