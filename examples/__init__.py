"""Complete small programs on real data."""
