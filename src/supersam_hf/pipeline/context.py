"""What the stages of a run share: its folder, its data, its models and its elastic space."""

import hashlib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader

from ..data import (
    PictureDataset,
    PictureStream,
    PromptDataset,
    PromptStream,
    build_loader,
    load_source,
    open_source,
)
from ..data.ranges import RowRange
from ..data.source import Source
from ..files import changed_keys, fingerprint, read_json
from ..models.supersam import ElasticSpace, Subnet, SuperSamModel, SuperSamProcessor
from ..models.supersam.pareto_supersam import ParetoFront
from ..recipe import Recipe
from ..search.pareto import named_front
from ..training.imitation import StoredEmbeddings, Teacher
from ..training.pretrain import sam_config
from .agreement import add_targets
from .folder import RunFolder, check_holdout


class Run(RunFolder):
    """A SuperSAM run: one output folder and the recipe that fills it."""

    recipe: Recipe

    def __init__(self, recipe: Recipe) -> None:
        start = {"pretrain": True} if recipe.pretrain.enabled else asdict(recipe.model)
        start.pop("attn_implementation", None)
        super().__init__(recipe, start)

    @cached_property
    def _train_source(self) -> Any:
        """All training images: a dataset, or a source of a stream."""
        source = self._read("train")
        check_holdout(len(source), self.recipe.holdout_images)
        return source

    @cached_property
    def train_loader(self) -> DataLoader:
        """Training images without the holdout."""
        return self._loader(self._trained_part(), training=True)

    def calibration_loader(self) -> DataLoader:
        """Training images as a process alone takes them: the same on each of any number of processes."""
        return self._loader(self._trained_part(), training=True, alone=True)

    def _trained_part(self) -> Any:
        total, held = len(self._train_source), self.recipe.holdout_images
        first, stop = (held, total) if self.recipe.data.streaming else (0, total - held)
        return self._part(first, stop)

    def holdout_loader(self, num_images: int | None = None) -> DataLoader:
        """The last training images, never trained on, as evaluation samples; of a stream, the first."""
        most = self.recipe.holdout_images
        count = most if num_images is None else min(num_images, most)
        total = len(self._train_source)
        first, stop = (0, count) if self.recipe.data.streaming else (total - count, total)
        return self._loader(self._part(first, stop), training=False, part="train", first=first)

    @cached_property
    def eval_loader(self) -> DataLoader:
        """The evaluation split: reported, never searched or ranked on. Of pictures without labels all processes must
        ask for it together, as for [`holdout_loader`]: the original's masks are made by all of them."""
        return self._loader(self._read("eval"), training=False)

    def _read(self, part: Literal["train", "eval"]) -> Any:
        data = self.recipe.data
        return (open_source if data.streaming else load_source)(data, part, self.skip_log)

    def _part(self, first: int, stop: int) -> Any:
        """Training images `first` to `stop`."""
        source = self._train_source
        return RowRange(source, first, stop) if self.recipe.data.streaming else source.select(range(first, stop))

    def _loader(
        self, source: Any, training: bool, alone: bool = False, part: Literal["train", "eval"] = "eval", first: int = 0
    ) -> DataLoader:
        """Batches of a part's rows from number `first` on."""
        data = self.recipe.data
        kinds: tuple[Any, Any] = (PictureDataset, PictureStream) if data.unlabelled else (PromptDataset, PromptStream)
        kind = kinds[data.streaming]
        dataset = kind(source, self.processor.image_processor, data, training=training, skip_log=self.skip_log)
        if data.unlabelled and not training:
            add_targets(self, dataset, part, first, contents_of(source if part == "eval" else self._train_source))
        batch_size = data.batch_size if training else data.eval_batch_size
        rank, world = (0, 1) if alone else (self.state.process_index, self.state.num_processes)
        return build_loader(dataset, batch_size, data.num_workers, data.seed, rank, world)

    @cached_property
    def processor(self) -> SuperSamProcessor:
        recipe = self.recipe
        if recipe.pretrain.enabled:
            return SuperSamProcessor.for_config(sam_config(recipe.pretrain))
        hub = {} if recipe.model.revision is None else {"revision": recipe.model.revision}
        return SuperSamProcessor.from_pretrained(recipe.model.name, image_size=recipe.model.image_size, **hub)

    def load(self, name: str | Path, **kwargs: Any) -> SuperSamModel:
        """A model in eval mode on this process's device."""
        implementation = self.recipe.model.attn_implementation
        model = SuperSamModel.from_pretrained(name, attn_implementation=implementation, **kwargs)
        return model.to(self.state.device).eval()

    def original(self) -> SuperSamModel:
        """The model that the run starts from."""
        if self.recipe.pretrain.enabled:
            return self.load(self.folder / "pretrained")
        args = self.recipe.model
        hub = {} if args.revision is None else {"revision": args.revision}
        return self.load(str(args.name), image_size=args.image_size, window_size=args.window_size, **hub)

    def reference(self) -> SuperSamModel:
        """The model whose embeddings and masks are the truth of pictures without labels."""
        name = self.recipe.data.original
        return self.original() if name is None else self.load(str(name))

    def teacher(self, precision: str) -> Teacher | None:
        """What a training at this precision imitates; None where there are labels. Its embeddings are stored where a
        picture is the same in each epoch."""
        data = self.recipe.data
        if not data.unlabelled:
            return None
        model = self.reference()
        stored, limit = None, int(data.embeddings_gb * 1e9)
        if limit and data.crop_train is None and not data.flip:
            identity = {**self.recipe.parts("data.train", "holdout_images"), "original": fingerprint(model)}
            identity |= {"pictures": contents_of(self._train_source), "precision": precision}
            digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
            folder = self.folder / "original" / f"embeddings-{digest}"
            stored = StoredEmbeddings(folder, limit, self.state.num_processes)
        return Teacher(model, data.min_predicted_iou, stored)

    def untrained(self) -> SuperSamModel:
        """What training starts from: the reordered model if there is one, else the original."""
        return self.load(self.folder / "reordered") if self.has_model("reordered") else self.original()

    def supernet(self) -> SuperSamModel:
        """The supernet as far as the run has brought it."""
        return self.load(self.folder / "supernet") if self.has_model("supernet") else self.untrained()

    def found(self) -> SuperSamModel:
        """The extracted subnet, as anyone would load it."""
        return self.load(self.folder / "subnet")

    def save_model(self, model: SuperSamModel, name: str, space: ElasticSpace | None = None) -> None:
        """Writes a folder that `from_pretrained` loads: aside first, so that it is whole or not there."""
        if space is not None:
            model.config.elastic_space = space.to_dict()
        self.write_model(name, model, self.processor)

    def space(self, model: SuperSamModel) -> ElasticSpace:
        """The model's own elastic space, or the recipe's; what that leaves open comes from the ranking, or the paper.

        Raises:
            ValueError: If the recipe asks for another space than the model was trained with.
        """
        stored = model.config.elastic_space
        given = {key: value for key, value in asdict(self.recipe.space).items() if value is not None}
        full = given.pop("sample_full")
        ranking = self.folder / "ranking.json"
        if stored is None and "prunable_layers" not in given and ranking.exists():
            given["prunable_layers"] = read_json(ranking)["prunable_layers"]
        if stored is not None:
            self._check_space(given, stored)
            return ElasticSpace.from_dict(stored)
        listed = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        space = ElasticSpace.for_config(model.config, **listed)
        return space.with_full_width() if full else space

    @staticmethod
    def _check_space(given: dict[str, Any], stored: dict[str, Any]) -> None:
        wanted = dict(given)
        if isinstance(wanted.get("prune_probability"), (int, float)):  # one θ for all prunable layers
            wanted["prune_probability"] = [wanted["prune_probability"]] * len(stored["prunable_layers"])
        full = {
            "mlp_windows": stored["mlp_dim"],
            "attention_windows": stored["num_attention_heads"] * stored["head_dim"],
        }
        for name, width in full.items():  # the full width is valid in any space, listed or not
            if name in wanted and width in stored[name] and width not in wanted[name]:
                wanted[name] = [*wanted[name], width]
        changed = changed_keys({key: stored[key] for key in wanted}, wanted)
        if changed:
            raise ValueError(
                f"The `space` section differs from the elastic space that this supernet was made with in "
                f"{', '.join(changed)}: {json.dumps(stored)}. Leave it out, or reorder and train anew in another "
                "`output_dir`."
            )

    def subnet(self, name: str, space: ElasticSpace) -> Subnet:
        """`largest`, `smallest`, `found` (what the search chose), a point of the Pareto front (`pareto-2`), or a JSON
        file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the search found nothing, no point has that name, or the subnet belongs to another space.
        """
        if name in ("largest", "smallest"):
            return space.largest() if name == "largest" else space.smallest()
        if name.startswith("pareto-"):
            subnet = self._pareto_point(name)
            space.validate(subnet)
            return subnet
        path = self.folder / "search.json" if name == "found" else Path(name)
        if not path.exists():
            raise FileNotFoundError(
                f"`subnet` is {name!r}, but there is no {path}: give a JSON file, `largest` or `smallest`, "
                "or search first."
            )
        data = read_json(path)
        if name == "found":
            if data["best"] is None:
                raise ValueError(f"The search found no subnet within the budget; {path} says which came nearest.")
            data = data["best"]["subnet"]
        subnet = Subnet.from_dict(data)
        space.validate(subnet)
        return subnet

    def _pareto_point(self, name: str) -> Subnet:
        """From this run's search, else from the front that the model's folder or repository carries."""
        path, args = self.folder / "search.json", self.recipe.model
        if path.exists():
            front = read_json(path)["front"]
            named = named_front(front)
            if name not in named:
                raise ValueError(f"`subnet` is {name!r}; {path} has {', '.join(named) or 'no points'}.")
            return Subnet.from_dict(named[name]["subnet"])
        if self.recipe.pretrain.enabled:
            raise FileNotFoundError(f"`subnet` is {name!r}, but there is no {path}: search first.")
        hub = {} if args.revision is None else {"revision": args.revision}
        return ParetoFront.from_pretrained(args.name, **hub).point(name).subnet


def contents_of(source: Any) -> str:
    """What tells a dataset, or the source of a stream, from others."""
    return source.fingerprint() if isinstance(source, Source) else str(source._fingerprint)


def stands_alone(config: Any) -> bool:
    """Whether a model is a subnet, extracted or found by a bi-mask search: it has no subnets of its own."""
    return config.subnet is not None or config.search is not None
