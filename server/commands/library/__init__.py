"""Commands about the models of this machine: pull, remove, list, show, recommend."""
