"""`prune`: one call from a model and some images to a smaller model."""

import copy
from collections.abc import Iterable
from typing import Any

from torch.utils.data import Dataset

from ..bimask.families import family_of
from ..bimask.families.sam import SamFamily
from ..data.loader import build_loader
from .arguments import PruneArguments
from .batches import calibration_batches, class_loss, prompt_loss
from .importance import Batch, Loss
from .pruning import prune_once


def prune(
    model: Any,
    data: Dataset | Iterable[Batch] = (),
    *,
    loss: Loss | None = None,
    batch_size: int = 16,
    **options: Any,
) -> Any:
    """Cuts a model down to a budget by the importance of its units, without training: a ViT, DeiT, Swin or SAM.

    ```python
    smaller = prune(model, dataset, max_macs=0.5)  # then train it: finetune_classifier(smaller, loader, ...)
    ```

    Args:
        model ([`OfbViTForImageClassification`], [`OfbSwinForImageClassification`] or [`SuperSamModel`]): Left as it
            is.
        data (`Dataset` or `Iterable[dict]`): An [`ImageDataset`] or [`PromptDataset`] in training mode, or batches
            that `loss` takes; not looked at with `method` magnitude or random and `reconstruct=False`.
        loss (`Callable`, *optional*): `loss(model, batch)`, a scalar with its graph; if not given, cross-entropy for
            classifiers and Dice for a SAM.
        batch_size (`int`): Images a batch, of a dataset.
        options: Of [`PruneArguments`]: `max_macs`, `max_params` or `max_latency_ms` (exactly one), `method`, ...

    Returns:
        The pruned model, standalone: save it, push it, train it as any other. `config.search` says how it was pruned.

    Raises:
        ValueError: If the budget cannot be met (saying what is left then), or images are needed and there are none.
    """
    args = PruneArguments(**options)
    if loss is None:
        loss = prompt_loss if isinstance(family_of(model), SamFamily) else class_loss
    samples: Any = data
    loader = build_loader(samples, batch_size, seed=args.seed) if isinstance(data, Dataset) else samples
    batches = calibration_batches(loader, args.num_images, model.device) if args.needs_images else []
    return prune_once(copy.deepcopy(model), args, batches, loss)[0]


__all__ = ["prune"]
