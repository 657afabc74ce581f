"""How a run would go: the driver on a cluster that exists in numbers only. Knows no Ray."""
