"""The Hugging Face Hub: a model as a folder that anyone can load, and its way there."""

from .errors import PushError
from .folder import export
from .push import push
from .readme import merged_readme


__all__ = ["PushError", "export", "merged_readme", "push"]
