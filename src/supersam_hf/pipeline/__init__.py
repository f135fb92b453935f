"""The stages of a run, from a recipe to a standalone subnet with its report: `supersam` and `ofb`."""
