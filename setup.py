"""The templates of the model cards stand beside `src` and are installed inside the package."""

from setuptools import find_packages, setup


METRICS = ("instance_miou", "topk_accuracy")  # folders of `evaluate`, which have no __init__.py

setup(
    packages=[*find_packages("src"), *(f"supersam_hf.metrics.{name}" for name in METRICS), "supersam_hf.model_cards"],
    package_dir={"": "src", "supersam_hf.model_cards": "model_cards"},
)
