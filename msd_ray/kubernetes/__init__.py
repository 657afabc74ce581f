"""Kubernetes: the values of the Helm chart, and what follows from them."""
