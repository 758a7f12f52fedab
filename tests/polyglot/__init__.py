"""The clients in examples/, each in its language, against real servers.

``make polyglot`` runs these; they need the languages' own tools, which fetch packages.
"""
