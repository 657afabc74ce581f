"""The logic of gateways and of students' replicas, without Ray.

A gateway does not need torch either, since the traffic has all facts about an ensemble. So it restarts quickly.
"""
