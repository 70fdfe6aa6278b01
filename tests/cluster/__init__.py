"""A Ray cluster on one machine: nodes in network namespaces, gateways, Redis; and what happens when each is lost.

``make test-cluster`` runs it.
"""
