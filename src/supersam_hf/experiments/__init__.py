"""The papers' comparisons: several runs that differ in one thing, and the table or figure made of them."""
