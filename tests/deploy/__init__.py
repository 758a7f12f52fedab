"""What runs openlimit elsewhere: the Helm chart, as far as it needs no cluster.

``make test-all`` runs these. They need Go, which builds helm, and to be root on Linux.
"""
