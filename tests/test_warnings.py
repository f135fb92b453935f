"""What lost too much says so, on its card, its page and in its results."""

import json
import shutil
from pathlib import Path

import pytest

from supersam_hf.pipeline.page import write_page
from supersam_hf.pipeline.publish import publication
from supersam_hf.pipeline.quality import at_chance, quality_warning


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("original", 0.57), ("searched", 0.20), ("finetuned", 0.50)], None),  # 0.8 of 0.57 is 0.456
        ([("original", 0.57), ("searched", 0.20), ("finetuned", 0.45)], "45.0% is far below the 57.0%"),
        ([("original", 0.30), ("whole", 0.60), ("pruned", 0.07), ("finetuned", 0.40)], "far below the 60.0%"),
        ([("original", 0.57), ("searched", 0.009)], "0.9% is about that of guessing one of 200 classes (0.5%)"),
        ([("finetuned", 0.40)], None),
        ([("original", 0.57)], None),
    ],
)
def test_a_classifier_far_below_its_original_is_told(rows: list[tuple[str, float]], said: str | None) -> None:
    found = quality_warning([{"name": name, "top1": top1, "num_labels": 200} for name, top1 in rows])
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(("labels", "limit"), [(2, 0.625), (3, 0.5), (10, 0.2), (1000, 0.002)])
def test_of_few_classes_guessing_is_no_good_twice_over(labels: int, limit: float) -> None:
    assert at_chance(labels) == pytest.approx(limit)


@pytest.mark.parametrize(("miou", "warned"), [(0.71, False), (0.70, True)])
def test_so_is_a_sam(miou: float, warned: bool) -> None:
    rows = [
        {"name": "original", "miou": 0.784},
        {"name": "found", "miou": 0.5},
        {"name": "found + recovery", "miou": miou},
    ]
    assert (quality_warning(rows) is not None) == warned
    assert "0.500" in str(quality_warning(rows, "found"))


@pytest.mark.parametrize(("run", "name"), [("ofb_run", "finetuned"), ("supersam_run", "subnet")])
def test_card_and_page_warn(run: str, name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = shutil.copytree(request.getfixturevalue(run), tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    for one in results["rows"]:
        for key in ("top1", "miou"):
            if key in one:
                one[key] = 0.5 if one["name"] == "original" else 0.3
    (folder / "results.json").write_text(json.dumps(results))
    assert "> [!WARNING]\n> Its " in publication(folder, name).card
    assert "Warning: Its " in write_page(folder).read_text()
    for one in results["rows"]:
        for key in ("top1", "miou"):
            if key in one:
                one[key] = 0.5
    (folder / "results.json").write_text(json.dumps(results))
    assert "WARNING" not in publication(folder, name).card
