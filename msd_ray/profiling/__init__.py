"""What a machine can do: how long an update, a request and a checkpoint take on it. No Ray here."""
