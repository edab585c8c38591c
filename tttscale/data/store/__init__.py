"""The token store on disk: its manifest, opening it, reading it, and verifying it."""
