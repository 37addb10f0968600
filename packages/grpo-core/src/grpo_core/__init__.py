"""Group-relative policy optimisation for any policy, with exact mathematics."""
