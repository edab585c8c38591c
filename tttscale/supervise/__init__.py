"""What watches a rank from outside: deaths, hangs, and which rank was the first. No torch here."""
