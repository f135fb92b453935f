"""`supersam-hf adapt`: an adapter is trained on a SAM or a supernet, saved as peft saves it, and evaluated."""

import logging
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from ..elastic.cost import count_parameters
from ..evaluation import quality_of
from ..files import fingerprint, write_json
from ..measure.cost import Cost
from ..models.supersam import ElasticSpace, Subnet, SuperSamModel
from ..training.adapt import AdaptArguments, add_adapter, train_adapter
from .adapter_files import AdapterFiles, adapter_facts, saved_adapter, table, write_others
from .context import Run
from .journal import Journal
from .progress import holdout_metrics
from .runner import metered, on_main_process


if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

Qualities = dict[str, float]
MAIN = "model"  # the row of a model without an elastic space


def adapt(run: Run) -> None:
    """`adapter/`, `adapt.json`: elastic LoRA of a supernet, plain LoRA or (IA)³ of another SAM; mIoU before and after.

    With `adapt.subnet` also `subnet/` and `subnet_adapter/`, with `adapt.merge` also `merged/`.

    Raises:
        ValueError: If peft is not installed, or the method, the targets or the subnet does not fit the model.
    """
    if find_spec("peft") is None:
        raise ValueError("adapters need peft, which is not installed: pip install 'supersam-hf[peft]'")
    args, model = run.recipe.adapt, run.original()
    plan = Plan.of(run, model)
    adapted: Any = add_adapter(model, args, elastic=plan.space is not None, revision=run.recipe.model.revision)
    plan.check(adapted)
    trainable, total = adapted.get_nb_trainable_parameters()
    logger.info(f"{plan.kind(args)}: {trainable:,} of {total:,} parameters are trained ({trainable / total:.2%})")
    before: Qualities = {}
    with adapted.disable_adapter():
        on_main_process(run, lambda run: before.update(qualities(run, adapted, plan.subnets)))
    spent = train(run, plan, adapted)
    run.write_model("adapter", AdapterFiles(adapted))
    size = {"trainable_params": trainable, "total_params": total, "trainable_share": trainable / total}
    on_main_process(run, lambda run: finish(run, plan, before, {**size, "cost": asdict(spent)}))


def train(run: Run, plan: "Plan", adapted: Any) -> Cost:
    """Trains the adapter; returns what that cost, over all its sittings."""
    args = run.recipe.adapt
    named = {name: plan.subnets[name] for name in ("largest", "smallest", MAIN) if name in plan.subnets}
    evaluate = holdout_metrics(run, args, named)
    with metered(run, "adapt") as meter:
        folder = run.folder / "adapt"
        train_adapter(adapted, run.train_loader, args, folder, space=plan.space, evaluate=evaluate, meter=meter)
    return meter.total()


def finish(run: Run, plan: "Plan", before: Qualities, known: dict[str, Any]) -> None:
    """Evaluates the adapter as it was saved, writes `adapt.json`, and what else was asked for."""
    adapted = saved_adapter(run, elastic=plan.space is not None)
    after = qualities(run, adapted, plan.subnets)
    rows = [{"name": n, "params": plan.params[n], "before": before[n], "after": after[n]} for n in plan.subnets]
    facts = adapter_facts(run, adapted, plan.space is not None, known)
    facts |= {"before": summary(before), "after": summary(after), "rows": rows}
    write_json(run.folder / "adapt.json", facts)
    print(table(facts))
    if Path(str(facts["base"])).exists():
        logger.info(
            f"adapter_config.json names a folder of this machine, {facts['base']}, as the model under the adapter: "
            "before you push it, push that model and give its Hub id as `--adapt.base`."
        )
    write_others(run, adapted, plan.chosen, plan.space)


def summary(values: Qualities) -> Qualities:
    """`miou` of the model or of the largest subnet, and what there is of a supernet's others."""
    sampled = [value for name, value in values.items() if name.startswith("sampled ")]
    known = {"miou": values.get("largest", values.get(MAIN)), "miou_smallest": values.get("smallest")}
    known["miou_sampled"] = statistics.mean(sampled) if sampled else None
    return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """What is adapted and evaluated: checked before any work is done.

    Args:
        space ([`ElasticSpace`] or None): The supernet's; None: not a supernet.
        chosen ([`Subnet`] or None): The one that `adapt.subnet` names.
        subnets (`dict`): What is evaluated, by name.
        params (`dict`): Parameters of each, without the adapter.
    """

    space: ElasticSpace | None
    chosen: Subnet | None
    subnets: Mapping[str, Subnet | None]
    params: Mapping[str, int]

    @classmethod
    def of(cls, run: Run, model: SuperSamModel) -> "Plan":
        args, stored = run.recipe.adapt, model.config.elastic_space
        if stored is None:
            if args.subnet is not None:
                raise ValueError(
                    f"`adapt.subnet` is {args.subnet!r}, but `model.name` has no elastic space: it is no supernet."
                )
            return cls(None, None, {MAIN: None}, {MAIN: count_parameters(model.config)})
        space = run.space(model)
        chosen = None if args.subnet is None else run.subnet(args.subnet, space)
        generator = torch.Generator().manual_seed(args.seed)
        subnets = {"largest": space.largest(), "smallest": space.smallest()}
        subnets |= {f"sampled {i + 1}": space.sample(generator) for i in range(args.eval_sampled)}
        if chosen is not None:
            subnets[str(args.subnet)] = chosen
        return cls(space, chosen, subnets, {n: count_parameters(model.config, s) for n, s in subnets.items()})

    def check(self, adapted: "PeftModel") -> None:
        """Raises `ValueError` if `adapt.subnet` keeps no adapted layer: known once the adapter is on, before it is
        trained."""
        if self.chosen is not None:
            from ..elastic.lora_extraction import adapted_layers

            adapted_layers(adapted, self.chosen, "default")

    def kind(self, args: AdaptArguments) -> str:
        if args.method == "ia3":
            return "(IA)³"
        return f"{'LoRA' if self.space is None else 'elastic LoRA'} of rank {args.r}"


def qualities(run: Run, model: Any, subnets: Mapping[str, Subnet | None]) -> Qualities:
    """mIoU of each subnet on the evaluation split; goes on where it was interrupted."""
    journal = Journal(run.folder / "adapt" / "evaluations.jsonl", run.recipe.parts("data.eval"))
    weights, quality = fingerprint(model), quality_of(model, run.eval_loader, cache_gb=run.recipe.cache_gb)
    found: Qualities = {}
    for name, subnet in tqdm(subnets.items(), desc="evaluate", unit="subnet"):
        key = f"{weights} {'all' if subnet is None else subnet.to_json()}"
        found[name] = journal.get(key, partial(quality, subnet))
    return found
