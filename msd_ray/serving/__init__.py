"""An ensemble as a service.

client/ speaks to it and needs neither ray nor torch; wire/ is what both ends must agree on; core/ is what a front and a
student do, without Ray; graph/ is where Ray Serve runs them.
"""
