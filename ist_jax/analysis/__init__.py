"""Costs by arithmetic, and what compiled programs say of them."""
