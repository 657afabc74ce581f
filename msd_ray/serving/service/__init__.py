"""What a gateway and a student do, without Ray.

A gateway needs no torch either: what it must know of an ensemble is in the traffic, so that it is up again quickly.
"""
