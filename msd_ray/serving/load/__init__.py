"""Load on a running service, and what it gives. Only its picture needs torch."""
