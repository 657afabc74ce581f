"""The teacher pool: replicas, their queues, and how students ask them."""
