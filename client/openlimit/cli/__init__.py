"""The command line ``openlimit``: what a server decides, and what operators change."""
