"""Costs by arithmetic, and costs measured on compiled programs."""
