"""The choice of a plan from a request's facts and a snapshot of the world."""
