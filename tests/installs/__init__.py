"""What needs more than Python and make: fresh installations, other packages' and Python's versions.

``make test-all`` runs these; they fetch packages, and some need to be root on Debian.
"""
