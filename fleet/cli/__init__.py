"""`fleetctl`: what kubectl cannot say. Speaks to the database; the kill switch needs nothing else."""
