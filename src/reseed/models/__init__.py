"""Subject models: building, training, checking, storing and loading them."""
