"""The commands of ``roundhouse``, one module per group."""
