"""What one would use instead of syncer: each a program of its own, in an environment of its own."""
