"""The card of a prepared dataset: what is in it, how it was made, how to load it and train on it."""

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np

from .parquet import stored_bytes


if TYPE_CHECKING:
    from datasets import DatasetDict


Task = Literal["segmentation", "classification"]

TASK_CATEGORIES = {
    "segmentation": ["mask-generation", "image-segmentation"],
    "classification": ["image-classification"],
}
SIZE_CATEGORIES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
# What stands between them is written anew by the next push; the rest of the card is its owner's.
BEGIN, END = "<!-- supersam-hf prepare -->", "<!-- end of supersam-hf prepare -->"
LISTED_CLASSES = 50

COLUMNS = {
    "segmentation": """Images with a mask for each object. Columns:

- `image`: the image, encoded as in the source.
- `image_id`: its name in the source.
- `objects`: a dict of lists with one entry an object: `segmentation` (COCO compressed run lengths, `size` = [height, \
width]; `pycocotools.mask.decode` gives the mask), `bbox` (COCO [x, y, width, height] in px) and `area` (px).""",
    "classification": """Images with a label each. Columns:

- `image`: the image, encoded as in the source.
- `label`: its class (`ClassLabel`).""",
}


def dataset_card(
    dataset: "DatasetDict", task: Task, *, name: str, made: str, files_size: int, license_id: str | None = None
) -> str:
    """README.md of a prepared dataset: metadata as `push_to_hub` of datasets writes it, and text.

    Args:
        dataset (`datasets.DatasetDict`): With canonical columns, or `image` and `label`.
        task (`str`): "segmentation" or "classification".
        name (`str`): Under which it is loaded: its id on the Hub, or its folder.
        made (`str`): What it was made from, and how, in sentences.
        files_size (`int`): Size of the parquet files, bytes.
        license_id (`str`, *optional*): The Hub's id of the license.
    """
    from datasets import DatasetInfo, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    total = sum(split.num_rows for split in dataset.values())
    data = DatasetCardData(
        license=license_id, task_categories=TASK_CATEGORIES[task], size_categories=[_size_category(total)]
    )
    splits, features = SplitDict(), next(iter(dataset.values())).features
    for split, rows in dataset.items():
        splits.add(SplitInfo(name=str(split), num_bytes=stored_bytes(rows), num_examples=rows.num_rows))
    size = sum(split.num_bytes for split in splits.values())
    info = DatasetInfo(features=features, splits=splits, download_size=files_size, dataset_size=size)
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    files = [{"split": str(split), "path": f"data/{split}-*"} for split in dataset]
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(data)
    return f"---\n{data.to_yaml()}\n---\n\n{_text(dataset, task, name, made)}"


def merged_card(existing: str, new: str) -> str:
    """The card of a repository after a push of datasets, with what [`dataset_card`] says.

    Its metadata stays, `dataset_info` and `configs` first of all, and gets what else the new card has. Its text stays
    too, if it has any; the part that an earlier push wrote is written anew.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    old, card = DatasetCard(existing), DatasetCard(new)
    written_by_datasets = ("dataset_info", "configs")
    ours = {key: value for key, value in card.data.to_dict().items() if key not in written_by_datasets}
    data = DatasetCardData(**{**old.data.to_dict(), **ours})
    begin, end = old.text.find(BEGIN), old.text.find(END)
    text = old.text if old.text.strip() else card.text
    if 0 <= begin < end:
        text = old.text[:begin] + card.text.strip() + old.text[end + len(END) :]
    return f"---\n{data.to_yaml()}\n---\n{text}"


def _text(dataset: "DatasetDict", task: Task, name: str, made: str) -> str:
    table = _object_table(dataset) if task == "segmentation" else _class_table(dataset)
    title = re.sub(r"[-_]+", " ", name.split("/")[-1]).strip()
    made = f"## How it was made\n\n{made}"
    parts = [BEGIN, f"# {title}", COLUMNS[task], table, made, _usage(dataset, task, name), END]
    return "\n\n".join(parts) + "\n"


def _object_table(dataset: "DatasetDict") -> str:
    head = "| split | images | images without objects | objects | an image: median, most | px: 5 %, median, 95 % |"
    lines = [head, "|---|---|---|---|---|---|"]
    for split, rows in dataset.items():
        areas = [row["objects"]["area"] for row in rows.select_columns(["objects"])]
        counts, sizes = np.array([len(a) for a in areas]), np.array([area for a in areas for area in a])
        spread = ", ".join(f"{q:,.0f}" for q in np.percentile(sizes, (5, 50, 95))) if len(sizes) else "–"
        lines.append(
            f"| {split} | {len(counts):,} | {int((counts == 0).sum()):,} | {len(sizes):,} | "
            f"{np.median(counts):.0f}, {counts.max():,} | {spread} |"
        )
    return "\n".join(lines)


def _class_table(dataset: "DatasetDict") -> str:
    names = next(iter(dataset.values())).features["label"].names
    lines = ["| split | images | images a class: fewest, median, most |", "|---|---|---|"]
    for split, rows in dataset.items():
        counts = np.bincount(np.array(rows["label"]), minlength=len(names))
        lines.append(f"| {split} | {rows.num_rows:,} | {counts.min():,}, {np.median(counts):,.0f}, {counts.max():,} |")
    listed = ", ".join(f"`{name}`" for name in names[:LISTED_CLASSES])
    more = f" and {len(names) - LISTED_CLASSES:,} more" if len(names) > LISTED_CLASSES else ""
    return "\n".join(lines) + f"\n\n{len(names):,} classes: {listed}{more}."


def _usage(dataset: "DatasetDict", task: Task, name: str) -> str:
    first = next(iter(dataset))
    data = f"--data.source {name}"
    others = [split for split in dataset if split != "train"]
    if "train" in dataset and not others:
        data += ' --data.train_split "train[:90%]" --data.eval_split "train[90%:]"'
    elif "train" in dataset and "validation" not in others:
        data += f" --data.eval_split {others[0]}"
    commands = [f"supersam-hf run --model.name facebook/sam-vit-base {data}"]
    if task == "classification":
        source = "--model.name facebook/deit-small-patch16-224 --model.new_labels true"
        commands = [f"supersam-hf ofb finetune {source} {data} --output_dir runs/whole"]
        commands += [f"supersam-hf ofb run --model.name runs/whole/finetuned {data} --output_dir runs/smaller"]
    command = "\n".join(commands)
    return f"""## How to use it

```python
from datasets import load_dataset

dataset = load_dataset("{name}", split="{first}")  # streaming=True: nothing is downloaded beforehand
```

To find a smaller network on it with `supersam_hf`:

```bash
{command}
```"""


def _size_category(count: int) -> str:
    return next((name for limit, name in SIZE_CATEGORIES.items() if count < limit), "10M<n<100M")


def made_by() -> str:
    """The program and its version."""
    return f"`supersam-hf prepare` (supersam_hf {version('supersam-hf')})"
