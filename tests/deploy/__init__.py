"""What runs openlimit elsewhere, as far as it needs no cluster and no Docker: the chart, the image.

``make test-all`` runs these. They need Go, which builds helm, and to be root on Debian.
"""
