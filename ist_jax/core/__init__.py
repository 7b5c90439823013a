"""The mechanism: groups of units, partitions, subnetworks, placements. It imports no Flax."""
