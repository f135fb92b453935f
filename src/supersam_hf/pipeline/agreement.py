"""The original's masks on the pictures of a run, made once and kept: what subnets are compared with without labels."""

import logging
from typing import TYPE_CHECKING, Any, Literal

from tqdm.auto import tqdm

from ..data.pictures import OriginalMasks
from ..evaluation.agreement import original_masks
from ..files import fingerprint
from .journal import Journal


if TYPE_CHECKING:
    from .context import Run


logger = logging.getLogger(__name__)

AGREEMENT = "agreement with the original"
# Said where a number is no mIoU with labels.
EXPLAINED = (
    "There are no labels: the quality of a model is its agreement with the original, the mean IoU of its masks with "
    "the original's at a grid of points. The original's own is 1; it says nothing of how good the original is."
)


def add_targets(run: "Run", dataset: Any, part: Literal["train", "eval"], first: int, contents: str) -> None:
    """Gives evaluation samples of pictures the original's masks, which are read from the run's folder as far as they
    are there. For all processes together.

    Args:
        dataset (`PictureDataset`): Pictures of a part, from number `first` of its split on.
        contents (`str`): Tells the pictures of the split from others.

    Raises:
        ValueError: If the original has no mask that counts on any of them, or those that are stored are of another
            model or other values.
    """
    data, model = run.recipe.data, run.reference()
    context = run.recipe.parts("data.holdout" if part == "train" else "data.eval")
    context |= {"original": fingerprint(model), "pictures": contents}
    journal = Journal(run.folder / "original" / f"{part}.jsonl", context, run.state)

    def compute(index: int) -> dict[str, Any]:
        sample = dataset.unlabelled_sample(index)
        return vars(OriginalMasks([], []) if sample is None else original_masks(model, sample, data.min_predicted_iou))

    items = {str(first + index): index for index in range(len(dataset))}
    with tqdm(total=len(items), desc="masks of the original", disable=not run.state.is_main_process) as bar:
        found = journal.get_all(items, compute, bar.update)
    targets = {index: OriginalMasks(**found[key]) for key, index in items.items()}
    _tell(list(targets.values()), part, data.min_predicted_iou)
    dataset.targets = targets


def _tell(found: list[OriginalMasks], part: str, least: float) -> None:
    """Logs what counts and what is left out.

    Raises:
        ValueError: If nothing counts.
    """
    kept, unsure, empty = (sum(counts) for counts in zip(*((len(o.points), o.unsure, o.empty) for o in found)))
    text = (
        f"The original has {kept} masks that count on {len(found)} {part} pictures; of {unsure} points it predicts an "
        f"IoU below {least:g} (`data.min_predicted_iou`), at {empty} it has none."
    )
    if not kept:
        raise ValueError(f"{text} Make `data.min_predicted_iou` smaller, or `data.prompts_per_side` larger.")
    logger.info(text)


__all__ = ["AGREEMENT", "EXPLAINED", "add_targets"]
