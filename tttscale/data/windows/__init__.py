"""From the splits of token stores to the windows that training steps read."""
