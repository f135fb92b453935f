"""Many subnets evaluated at once: equal to each alone, whatever is kept and shared."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import randomised, tiny_config
from torch.utils.data import DataLoader
from transformers import SamModel

from supersam_hf import ElasticSpace, SuperSamModel, evaluate_subnets
from supersam_hf.evaluation import SubnetEvaluator, Targets, evaluate
from supersam_hf.evaluation.decoding import EmbeddedPrompts, decode
from supersam_hf.evaluation.states import StateStore
from supersam_hf.models.supersam import Subnet


SPACE = ElasticSpace(
    num_hidden_layers=6,
    num_attention_heads=3,
    mlp_dim=192,
    head_dim=16,
    protected_layers=(0, 4),
    prunable_layers=(1, 3, 5),
    prune_probability=(0.5,) * 3,
    mlp_windows=(48, 96),
    attention_windows=(24, 36),
)


# A pixel of logit 0 up to rounding may fall on either side; of 64 x 64 pixels and 25 objects.
A_PIXEL = 1e-5


def sampled(count: int, seed: int = 0) -> list[Subnet]:
    generator = torch.Generator().manual_seed(seed)
    return [SPACE.largest(), SPACE.smallest(), *(SPACE.sample(generator) for _ in range(count))]


@torch.inference_mode()
def plain(model: Any, loader: DataLoader, multimask: bool = True, bf16: bool = False) -> list[float]:
    """What `EvaluationResult` holds, by the model's own forward and the definition of IoU, an object at a time."""
    rows = []
    for batch in loader:
        prompts = {k: v for k, v in batch.items() if k.startswith("input_")}
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = [model(batch["pixel_values"], multimask_output=many, **prompts) for many in (False, True)]
        for image, slot in batch["object_mask"].nonzero().tolist():
            height, width = batch["valid_size"][image].tolist()
            truth = batch["masks"][image, slot, :height, :width].bool()
            ious = []
            for logits in [outputs[0].pred_masks[image, slot, 0], *outputs[1].pred_masks[image, slot]]:
                whole = F.interpolate(logits[None, None].float(), batch["masks"].shape[-2:], mode="bilinear")[0, 0]
                mask = whole[:height, :width] > 0
                either = (mask | truth).sum().item()
                ious.append((mask & truth).sum().item() / either if either else 0.0)
            picked = outputs[1].iou_scores[image, slot].argmax().item()
            rows.append([ious[0], max(ious[1:]), ious[1 + picked]])
    means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return [*means, len(rows)]


def as_list(result: Any) -> list[float]:
    return [result.miou, result.miou_oracle, result.miou_predicted, result.num_objects]


@pytest.fixture
def batches_of_three(shapes_loader: Callable[..., DataLoader]) -> Callable[..., DataLoader]:
    """Evaluation batches of 3 with empty slots, of 8 images: the last batch is smaller."""

    def make(**options: Any) -> DataLoader:
        return shapes_loader(training=False, batch_size=3, max_objects=5, **options)

    return make


@pytest.fixture
def any_precision() -> Iterator[None]:
    """Accelerate keeps the precision of a process: forgotten before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("prompt", ["box", "point"])
@pytest.mark.parametrize("bf16", [False, True])
def test_subnets_at_once_are_each_extracted_subnet_alone(
    supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader], prompt: str, bf16: bool
) -> None:
    """Bit for bit as `evaluate` of the extracted model; to the same pixels as the extracted model's own forward."""
    loader, subnets = batches_of_three(prompt=prompt), sampled(6)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16") if bf16 else None
    evaluator = SubnetEvaluator(supernet, loader, space=SPACE, accelerator=accelerator)
    found = evaluator.results(subnets)
    for subnet, result in zip(subnets, found):
        extracted = supernet.extract(subnet)
        assert result == evaluate(extracted, loader, accelerator=accelerator)
        if not bf16:
            assert as_list(result) == pytest.approx(plain(extracted, loader), abs=A_PIXEL)
    single = evaluator.results(subnets, multimask=False)
    assert [one.miou for one in single] == [one.miou for one in found] == evaluator.mious(subnets)
    assert {one.miou_oracle for one in single} == {None}
    assert len({one.miou for one in found}) > 4, "subnets differ"


def test_what_is_kept_changes_nothing(supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader]) -> None:
    """Nothing kept, a part of the batches, all of them, all states; asked together, one by one, twice."""
    loader, subnets = batches_of_three(), sampled(10, seed=1)
    expected = [evaluate(supernet, loader, subnet, multimask=False).miou for subnet in subnets]
    whole = SubnetEvaluator(supernet, loader)
    assert whole.mious(subnets) == expected
    for nbytes in (0, whole._kept[0].nbytes + 10, sum(b.nbytes for b in whole._kept) + 50_000, whole.store.peak // 2):
        evaluator = SubnetEvaluator(supernet, loader, space=SPACE, cache_gb=nbytes / 1e9)
        assert evaluator.mious(subnets[:5]) + [evaluator.miou(subnet) for subnet in subnets[5:]] == expected
        assert evaluator.mious(subnets[::-1]) == expected[::-1]
        assert evaluator.store.peak <= nbytes


def test_a_block_runs_once_for_all_that_share_it_and_those_before(
    supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader]
) -> None:
    subnets = [SPACE.largest(), *(SPACE.subnet(removed=(layer,)) for layer in (1, 3, 5)), SPACE.largest()]
    ran: list[str] = []
    for number, layer in enumerate(supernet.vision_encoder.layers):
        for part in ("attn", "mlp"):
            layer.get_submodule(part).register_forward_hook(lambda *_, name=f"{number} {part}": ran.append(name))
    evaluator = SubnetEvaluator(supernet, batches_of_three(), space=SPACE)
    evaluator.mious(subnets)
    # the trie of 0 1 2 3 4 5, 0 2 3 4 5, 0 1 2 4 5 and 0 1 2 3 4, for each of 3 batches
    blocks = [f"{layer} {part}" for layer in (0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 4, 5) for part in ("attn", "mlp")]
    assert sorted(ran) == sorted(3 * blocks)
    ran.clear()
    evaluator.miou(SPACE.subnet(removed=(5,), mlp_dim={4: 96}))
    assert ran == 3 * ["4 mlp"], "goes on from what the call before has left"


def test_batches_are_loaded_once_and_what_does_not_fit_is_said_once(
    supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader], caplog: pytest.LogCaptureFixture
) -> None:
    loader = batches_of_three()
    dataset: Any = loader.dataset
    read: list[Any] = []
    item = type(dataset).__getitem__

    class Counting(type(dataset)):
        def __getitem__(self, key: Any) -> Any:
            read.append(key)
            return item(self, key)

    dataset.__class__ = Counting
    whole = SubnetEvaluator(supernet, loader)
    expected = [whole.miou(SPACE.largest()), whole.miou(SPACE.smallest())]
    assert len(read) == 8
    with caplog.at_level(logging.WARNING):
        part = SubnetEvaluator(supernet, loader, cache_gb=(whole._kept[0].nbytes + 10) / 1e9)
        assert [part.miou(SPACE.largest()), part.miou(SPACE.smallest())] == expected
    assert len(read) == 8 + 8 + 5
    assert [record.getMessage() for record in caplog.records if "cache_gb" in record.getMessage()] == [
        f"`cache_gb` of {part.store.limit / 1e9:g} holds 1 of the 3 evaluation batches; the others are loaded anew "
        "each time."
    ]


def test_a_stock_sam_is_evaluated_as_its_own_forward(batches_of_three: Callable[..., DataLoader]) -> None:
    """With both attention implementations."""
    loader = batches_of_three(prompt="point")
    for implementation in ("sdpa", "eager"):
        model = randomised(SamModel._from_config(tiny_config(), attn_implementation=implementation))
        assert as_list(evaluate(model, loader)) == pytest.approx(plain(model, loader), abs=A_PIXEL)


def test_the_decoder_is_that_of_transformers(stock: SamModel, batches_of_three: Callable[..., DataLoader]) -> None:
    batch = next(iter(batches_of_three()))
    with torch.inference_mode():
        embeddings = stock.get_image_embeddings(batch["pixel_values"])
        prompts = EmbeddedPrompts.of(stock, batch)
        masks, ious = decode(stock.mask_decoder, embeddings, prompts)
        for many, columns in ((False, slice(0, 1)), (True, slice(1, 4))):
            expected = stock(image_embeddings=embeddings, input_boxes=batch["input_boxes"], multimask_output=many)
            torch.testing.assert_close(masks[:, columns], expected.pred_masks[batch["object_mask"]])
            torch.testing.assert_close(ious[:, columns], expected.iou_scores[batch["object_mask"]])


def test_padding_and_empty_slots_count_for_nothing() -> None:
    masks = torch.zeros(2, 2, 8, 8, dtype=torch.uint8)
    masks[0, 0, :4, :4] = masks[0, 1] = masks[1] = 1
    held = torch.tensor([[True, False], [True, True]])
    batch = {"masks": masks, "object_mask": held, "valid_size": torch.tensor([[8, 4], [8, 8]])}
    logits = torch.ones(3, 2, 8, 8)
    logits[:, 1] = -1
    found = Targets.of(batch).ious(logits)
    assert found.tolist() == [[0.5, 0.0], [1.0, 0.0], [1.0, 0.0]]
    empty = {**batch, "masks": torch.zeros_like(masks)}
    assert Targets.of(empty).ious(logits).tolist() == [[0.0, 0.0]] * 3


def test_states_after_few_layers_are_kept_first() -> None:
    store = StateStore(40)
    one = torch.zeros(10, dtype=torch.uint8)
    paths = [tuple((layer, 1, 1) for layer in range(depth)) for depth in range(6)]
    for depth in (3, 4, 2, 5):
        store.put(0, paths[depth], one)
    store.put(1, paths[4], one)
    assert store.get(1, paths[4]) is not None, "what is deeper makes room"
    assert store.get(0, paths[5]) is None
    store.put(2, paths[4], one)
    assert store.get(2, paths[4]) is None, "what is as deep stays"
    assert store.reserve(30)
    assert [store.get(0, paths[depth]) is None for depth in (2, 3, 4)] == [False, True, True]
    assert not store.reserve(11)
    assert (store.nbytes, store.peak) == (40, 40)


@pytest.mark.parametrize("limit", [-1.0, float("nan")])
def test_a_meaningless_limit_is_refused(
    supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader], limit: float
) -> None:
    with pytest.raises(ValueError, match="cache_gb"):
        SubnetEvaluator(supernet, batches_of_three(), cache_gb=limit)


def test_a_subnet_of_another_space_is_refused(
    supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader]
) -> None:
    evaluator = SubnetEvaluator(supernet, batches_of_three(), space=SPACE)
    with pytest.raises(ValueError, match="not of this space"):
        evaluator.miou(SPACE.subnet(removed=(0,)))
    with pytest.raises(ValueError, match="layers"):
        evaluator.miou(Subnet((0, 9), (192, 192), (16, 16)))


def test_without_objects_there_is_no_mean(
    supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader]
) -> None:
    loader = batches_of_three()
    dataset: Any = loader.dataset
    item = type(dataset).__getitem__

    class Empty(type(dataset)):
        def __getitem__(self, key: Any) -> Any:
            sample = item(self, key)
            return {**sample, "object_mask": torch.zeros_like(sample["object_mask"])}

    dataset.__class__ = Empty
    with pytest.raises(ValueError, match="No evaluation image shows an object"):
        evaluate_subnets(supernet, loader, {"largest": None})


def test_named_subnets_keep_their_names(supernet: SuperSamModel, batches_of_three: Callable[..., DataLoader]) -> None:
    found = evaluate_subnets(supernet, batches_of_three(), {"all": None, "small": SPACE.smallest()}, multimask=False)
    assert found["all"] == evaluate(supernet, batches_of_three(), multimask=False)
    assert found["small"] == evaluate(supernet, batches_of_three(), SPACE.smallest(), multimask=False)
