"""From the files of a run to the facts of a model card."""
