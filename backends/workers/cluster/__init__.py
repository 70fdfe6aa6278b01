"""The worker pool of a Ray cluster: workers on its nodes, shared by several gateways."""
