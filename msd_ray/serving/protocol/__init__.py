"""What the client and the service must agree on beside the contract. Needs neither ray nor torch."""
