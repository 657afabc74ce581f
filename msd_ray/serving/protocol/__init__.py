"""Conventions of client and service beside the contract. Needs neither ray nor torch."""
