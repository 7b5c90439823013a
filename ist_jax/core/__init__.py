"""The mechanism: groups of units, partitions, subnetworks, placements. It knows no Flax."""
