"""An ensemble as a service.

client/ speaks to it and needs neither ray nor torch; protocol/ is what both ends must agree on; service/ is what a
gateway and a student do, without Ray; gateway/ is gRPC and HTTP; serve_apps/ is where Ray Serve runs them.
"""
