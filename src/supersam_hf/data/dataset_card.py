"""The card of a prepared dataset: what is in it, how it was made, how to load it and train on it."""

import re
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..escape import code, one_line, prose, python


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

SOURCE = "--data.source"
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
    dataset: "DatasetDict",
    task: Task,
    *,
    sizes: dict[str, int],
    name: str,
    made: str,
    files_size: int,
    recipe: str,
    license_id: str | None = None,
) -> str:
    """README.md of a prepared dataset: metadata as `push_to_hub` of datasets writes it, and text.

    Args:
        dataset (`datasets.DatasetDict`): With canonical columns, or `image` and `label`.
        task (`str`): "segmentation" or "classification".
        sizes (`dict`): Bytes of each split in memory.
        name (`str`): Under which it is loaded: its id on the Hub, or its folder.
        made (`str`): What it was made from, and how, in sentences.
        files_size (`int`): Size of the parquet files, bytes.
        recipe (`str`): What stands for the source and the arguments (see [`recipe_line`]).
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
        splits.add(SplitInfo(name=str(split), num_bytes=sizes[str(split)], num_examples=rows.num_rows))
    size = sum(split.num_bytes for split in splits.values())
    info = DatasetInfo(features=features, splits=splits, download_size=files_size, dataset_size=size)
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    files = [{"split": str(split), "path": f"data/{split}-*"} for split in dataset]
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(data)
    return f"---\n{data.to_yaml()}\n---\n\n{_text(dataset, task, name, made, recipe)}"


def renamed(card: str, name: str) -> str:
    """The card of [`dataset_card`] under another name: its title, and what loads it."""
    begin, end = card.find(BEGIN), card.find(END)
    part = re.sub(r"^# .*$", lambda _: _title(name), card[begin:end], count=1, flags=re.MULTILINE)
    part = re.sub(r"(?<=load_dataset\().*(?=, split=)", lambda _: python(name), part)
    part = re.sub(r"^supersam-hf .*$", lambda command: _of_source(command[0], name), part, flags=re.MULTILINE)
    return card[:begin] + part + card[end:]


def _of_source(command: str, name: str) -> str:
    """A command of [`_usage`] with another source."""
    words = shlex.split(command)
    words[words.index(SOURCE) + 1] = one_line(name)
    return shlex.join(words)


def recipe_line(recipe: str) -> str:
    """The line by which a prepared folder is known again."""
    return f"<!-- recipe: {recipe} -->"


def _text(dataset: "DatasetDict", task: Task, name: str, made: str, recipe: str) -> str:
    table = _object_table(dataset) if task == "segmentation" else _class_table(dataset)
    made = f"## How it was made\n\n{made}"
    usage = _usage(list(map(str, dataset)), task, name)
    parts = [BEGIN, recipe_line(recipe), _title(name), COLUMNS[task], table, made, usage, END]
    return "\n\n".join(parts) + "\n"


def _title(name: str) -> str:
    return "# " + prose(re.sub(r"[-_]+", " ", name.split("/")[-1]).strip())


def _object_table(dataset: "DatasetDict") -> str:
    head = "| split | images | images without objects | objects | an image: median, most | px: 5 %, median, 95 % |"
    lines = [head, "|---|---|---|---|---|---|"]
    for split, rows in dataset.items():
        areas = [row["objects"]["area"] for row in rows.select_columns(["objects"])]
        counts, sizes = np.array([len(a) for a in areas]), np.array([area for a in areas for area in a])
        spread = ", ".join(_number(q) for q in np.percentile(sizes, (5, 50, 95))) if len(sizes) else "–"
        lines.append(
            f"| {split} | {len(counts):,} | {int((counts == 0).sum()):,} | {len(sizes):,} | "
            f"{_number(np.median(counts))}, {counts.max():,} | {spread} |"
        )
    return "\n".join(lines)


def _class_table(dataset: "DatasetDict") -> str:
    names = next(iter(dataset.values())).features["label"].names
    lines = ["| split | images | images a class: fewest, median, most |", "|---|---|---|"]
    for split, rows in dataset.items():
        counts = np.bincount(np.array(rows["label"]), minlength=len(names))
        spread = f"{counts.min():,}, {_number(np.median(counts))}, {counts.max():,}"
        lines.append(f"| {split} | {rows.num_rows:,} | {spread} |")
    listed = ", ".join(map(code, names[:LISTED_CLASSES]))
    more = f" and {len(names) - LISTED_CLASSES:,} more" if len(names) > LISTED_CLASSES else ""
    return "\n".join(lines) + f"\n\n{len(names):,} classes: {listed}{more}."


def _number(value: float) -> str:
    """To one decimal, if it has any: a median is a whole number or a half."""
    return f"{value:,.1f}".removesuffix(".0")


def _usage(splits: list[str], task: Task, name: str) -> str:
    first, *others = sorted(splits, key=lambda split: split != "train")  # "train" first, the others as they come
    data = [SOURCE, one_line(name)]
    if not others:
        data += ["--data.train_split", f"{first}[:90%]", "--data.eval_split", f"{first}[90%:]"]
    elif first != "train":
        data += ["--data.train_split", first]
    if others and "validation" not in others:
        data += ["--data.eval_split", others[0]]
    commands = [["run", "--model.name", "facebook/sam-vit-base", *data]]
    if task == "classification":
        source = ["--model.name", "facebook/deit-small-patch16-224", "--model.new_labels", "true"]
        commands = [["ofb", "finetune", *source, *data, "--output_dir", "runs/whole"]]
        found = ["--model.name", "runs/whole/finetuned", *data, "--output_dir", "runs/smaller"]
        commands += [["ofb", "run", *found]]
    command = "\n".join(shlex.join(["supersam-hf", *words]) for words in commands)
    return f"""## How to use it

```python
from datasets import load_dataset

dataset = load_dataset({python(name)}, split="{first}")  # streaming=True: nothing is downloaded beforehand
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
