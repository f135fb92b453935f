"""Masked image modelling against average pooling, literal loops and stock transformers' SimMIM."""

import time

import pytest
import torch
import torch.nn.functional as F
from transformers import DeiTConfig, DeiTForMaskedImageModeling, ViTConfig, ViTForMaskedImageModeling

from supersam_hf.bimask import pmim
from supersam_hf.bimask.pmim import PatchMasking, PmimDecoder, mask_patches, reconstruction_loss, sample_mask
from supersam_hf.models.ofb_vit import OfbViTConfig, OfbViTForImageClassification


SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed))


def in_patches(pixels: torch.Tensor, mask: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Masked patches of images, one by one."""
    columns = pixels.shape[-1] // patch_size
    cut = []
    for image, patch in mask.nonzero().tolist():
        y, x = patch // columns * patch_size, patch % columns * patch_size
        cut.append(pixels[image, :, y : y + patch_size, x : x + patch_size])
    return torch.stack(cut)


def local_normalised(pixels: torch.Tensor, window: int = 47, **values: float) -> torch.Tensor:
    """The target of whole images: every pixel a masked patch of its own."""
    batch, channels, height, width = pixels.shape
    mask = torch.ones(batch, height * width, dtype=torch.bool)
    target = pmim.local_normalised(pixels, mask, 1, window, **values)
    return target.view(batch, height, width, channels).permute(0, 3, 1, 2)


def pooled(pixel_values: torch.Tensor, window: int) -> torch.Tensor:
    """SimMIM's normalised target, by average pooling."""

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(values, window, stride=1, padding=window // 2, count_include_pad=False)

    ones = F.pad(torch.ones_like(pixel_values), [window // 2] * 4)
    count = F.avg_pool2d(ones, window, stride=1) * window**2
    variance = (mean(pixel_values**2) - mean(pixel_values) ** 2) * count / (count - 1)
    return (pixel_values - mean(pixel_values)) / (variance.clamp(min=0) + 1e-6).sqrt()


@pytest.mark.parametrize("window", [3, 7, 47])
@pytest.mark.parametrize("size", [(32, 32), (56, 40), (64, 64)])
def test_local_normalisation_is_the_pooling_version(window: int, size: tuple[int, int]) -> None:
    pixels = images(2, 3, *size)
    expected = pooled(pixels.double(), window)
    assert torch.allclose(local_normalised(pixels, window).double(), expected, atol=1e-5)


def test_local_normalisation_is_mean_and_unbiased_deviation_of_the_pixels_inside_the_image() -> None:
    pixels = images(1, 1, 9, 8)
    target = local_normalised(pixels, window=5, eps=0.0)
    for row in range(9):
        for column in range(8):
            near = pixels[0, 0, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            expected = (pixels[0, 0, row, column] - near.mean()) / near.std()
            assert target[0, 0, row, column] == pytest.approx(expected.item(), abs=1e-5)


def test_local_normalisation_of_flat_and_nearly_flat_images() -> None:
    assert torch.equal(local_normalised(torch.full((1, 3, 32, 32), 2.64)), torch.zeros(1, 3, 32, 32))
    nearly = 2.6 + 0.009 * images(1, 3, 64, 64)
    assert torch.allclose(local_normalised(nearly).double(), pooled(nearly.double(), 47), atol=1e-5)


def test_local_normalisation_is_float32_of_any_image_and_has_no_gradient() -> None:
    target = local_normalised(images(1, 3, 32, 32).bfloat16().requires_grad_())
    assert target.dtype == torch.float32
    assert not target.requires_grad


@pytest.mark.parametrize("patch_size", [4, 8])
def test_local_normalisation_of_masked_patches_is_that_of_the_image(patch_size: int) -> None:
    pixels = images(3, 3, 32, 48)
    mask = torch.rand(3, 32 * 48 // patch_size**2, generator=generator()) < 0.3
    target = pmim.local_normalised(pixels, mask, patch_size, 7)
    assert torch.equal(target, in_patches(local_normalised(pixels, 7), mask, patch_size))


def test_a_mask_of_another_grid_has_no_target() -> None:
    with pytest.raises(ValueError, match=r"`mask` must be of shape \(2, 16\), got \(2, 15\)"):
        pmim.local_normalised(images(2, 3, 32, 32), torch.ones(2, 15, dtype=torch.bool), 8)


def test_local_normalisation_costs_a_fraction_of_pooling() -> None:
    pixels, mask = images(1, 1, 224, 224), torch.ones(1, 196, dtype=torch.bool)

    def boxes(pixels: torch.Tensor, window: int) -> torch.Tensor:
        return pmim.local_normalised(pixels, mask, 16, window)

    def seconds(normalise: object) -> float:
        start = time.process_time()
        normalise(pixels, 47)
        return time.process_time() - start

    boxes(pixels, 47)
    assert min(seconds(boxes) for _ in range(3)) < seconds(pooled) / 4


@pytest.mark.parametrize("window", [1, 2, 46, -3])
def test_windows_must_be_odd(window: int) -> None:
    with pytest.raises(ValueError, match=f"`window` must be odd and at least 3, got {window}"):
        local_normalised(images(1, 3, 32, 32), window)


@pytest.mark.parametrize(("ratio", "count"), [(0, 0), (0.05, 10), (0.15, 29), (0.25, 49), (1, 196)])
def test_every_image_has_the_same_number_of_masked_patches(ratio: float, count: int) -> None:
    mask = sample_mask(5, 196, ratio, generator())
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [count] * 5


def test_masks_differ_between_images_and_repeat_with_the_generator() -> None:
    mask = sample_mask(4, 64, 0.25, generator())
    assert len({tuple(row) for row in mask.tolist()}) == 4
    assert torch.equal(mask, sample_mask(4, 64, 0.25, generator()))
    assert not torch.equal(mask, sample_mask(4, 64, 0.25, generator(1)))


def test_all_patches_are_masked_equally_often() -> None:
    share = sample_mask(4000, 16, 0.25, generator()).float().mean(0)
    assert torch.allclose(share, torch.full((16,), 0.25), atol=0.03)  # 4 standard deviations


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratios_lie_between_0_and_1(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"`ratio` must be in \[0, 1\]"):
        sample_mask(2, 16, ratio, generator())


def test_the_decoder_puts_every_pixel_where_it_is_in_its_patch() -> None:
    decoder = PmimDecoder(hidden_size=6, patch_size=4, num_channels=3)
    tokens = images(5, 6)
    pixels = decoder(tokens)
    assert pixels.shape == (5, 3, 4, 4)
    weight, bias = decoder.projection.weight, decoder.projection.bias
    for channel in range(3):
        for y in range(4):
            for x in range(4):
                row = channel * 16 + y * 4 + x
                assert torch.allclose(pixels[:, channel, y, x], tokens @ weight[row] + bias[row], atol=1e-6)


def test_the_decoder_follows_a_cut_of_its_projection() -> None:
    decoder, tokens = PmimDecoder(6, 4), images(9, 6)
    tokens[..., 4:] = 0
    expected = decoder(tokens)
    decoder.projection.weight = torch.nn.Parameter(decoder.projection.weight[:, :4].detach())
    assert torch.allclose(decoder(tokens[..., :4]), expected, atol=1e-6)


def test_the_loss_is_the_mean_over_pixels_and_channels() -> None:
    predicted, target = images(3, 3, 4, 4), images(3, 3, 4, 4, seed=1)
    errors = [abs(a - b) for a, b in zip(predicted.flatten().tolist(), target.flatten().tolist())]
    assert reconstruction_loss(predicted, target).item() == pytest.approx(sum(errors) / len(errors), abs=1e-6)


def test_the_loss_of_nothing_masked_is_0_with_a_graph() -> None:
    predicted = images(0, 3, 4, 4).requires_grad_()
    loss = reconstruction_loss(predicted, images(0, 3, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert predicted.grad.shape == predicted.shape


def test_the_loss_is_float32() -> None:
    predicted = images(1, 3, 4, 4).bfloat16().requires_grad_()
    loss = reconstruction_loss(predicted, images(1, 3, 4, 4, seed=1))
    loss.backward()
    assert loss.dtype == torch.float32
    assert (predicted.grad != 0).all()


def test_patches_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`predicted` must be of the target's shape \(2, 3, 4, 4\)"):
        reconstruction_loss(images(3, 3, 4, 4), images(2, 3, 4, 4))


def classifier(**config: object) -> OfbViTForImageClassification:
    torch.manual_seed(0)
    return OfbViTForImageClassification(OfbViTConfig(**SHAPE, num_labels=5, **config)).eval()


def last_hidden_state(model: OfbViTForImageClassification, pixels: torch.Tensor) -> torch.Tensor:
    return model.vit(pixels).last_hidden_state


def with_weights_of(
    simmim: ViTForMaskedImageModeling | DeiTForMaskedImageModeling, **config: object
) -> tuple[OfbViTForImageClassification, PatchMasking, PmimDecoder]:
    """Our classifier, token and decoder with the weights of a stock masked image model."""
    model = classifier(**config)
    masking, decoder = PatchMasking(model), PmimDecoder(32, 8)
    with torch.no_grad():
        missing = model.vit.load_state_dict(simmim.base_model.state_dict(), strict=False)
        masking.token.copy_(simmim.base_model.embeddings.mask_token)
        decoder.projection.weight.copy_(simmim.decoder[0].weight[:, :, 0, 0])
        decoder.projection.bias.copy_(simmim.decoder[0].bias)
    assert missing == ([], ["embeddings.mask_token"])
    return model, masking, decoder


@pytest.mark.parametrize("distilled", [False, True])
@torch.no_grad()
def test_masking_before_the_positions_is_stock_simmim(distilled: bool) -> None:
    torch.manual_seed(1)
    stock = (
        DeiTForMaskedImageModeling(DeiTConfig(**SHAPE)) if distilled else ViTForMaskedImageModeling(ViTConfig(**SHAPE))
    )
    stock.eval().base_model.embeddings.mask_token.normal_()
    stock.base_model.embeddings.position_embeddings.normal_()
    model, masking, decoder = with_weights_of(stock, distillation_token=distilled)
    pixels, mask = images(2, 3, 32, 32), sample_mask(2, 16, 0.25, generator())
    expected = stock(pixels, bool_masked_pos=mask)
    masking.mask = mask
    reconstruction = decoder(last_hidden_state(model, pixels)[:, 1 + distilled :][mask])
    assert torch.allclose(reconstruction, in_patches(expected.reconstruction, mask, 8), atol=1e-5)
    loss = reconstruction_loss(reconstruction, in_patches(pixels, mask, 8))
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)


@pytest.mark.parametrize("distilled", [False, True])
@torch.no_grad()
def test_masking_after_the_positions_leaves_masked_patches_without_place(distilled: bool) -> None:
    model = classifier(distillation_token=distilled)
    pixels, mask = images(2, 3, 32, 32), sample_mask(2, 16, 0.25, generator())
    plain = model.vit.embeddings(pixels)
    masking = PatchMasking(model, "after")
    masking.mask = mask
    embeddings = model.vit.embeddings(pixels)
    special = 1 + distilled
    assert torch.equal(embeddings[:, :special], plain[:, :special])
    for image in range(2):
        for patch in range(16):
            expected = masking.token[0, 0] if mask[image, patch] else plain[image, special + patch]
            assert torch.equal(embeddings[image, special + patch], expected)


@pytest.mark.parametrize("position", ["before", "after"])
def test_the_token_learns_and_masked_patches_do_not(position: str) -> None:
    model = classifier()
    masking = PatchMasking(model, position)
    masking.mask = torch.ones(2, 16, dtype=torch.bool)
    model(images(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    assert masking.token.grad.abs().max() > 0
    assert model.vit.embeddings.patch_embeddings.projection.weight.grad.abs().max() == 0
    positions = model.vit.embeddings.position_embeddings.grad[0, 1:]
    assert (positions.abs().max() > 0) == (position == "before")


@pytest.mark.parametrize("position", ["before", "after"])
@torch.no_grad()
def test_without_a_mask_or_removed_the_model_is_the_ordinary_one(position: str) -> None:
    model, pixels = classifier(), images(2, 3, 32, 32)
    names, expected = list(model.state_dict()), model(pixels).logits
    masking = PatchMasking(model, position)
    assert torch.equal(model(pixels).logits, expected)
    masking.mask = sample_mask(2, 16, 0.5, generator())
    assert not torch.allclose(model(pixels).logits, expected)
    masking.remove()
    assert torch.equal(model(pixels).logits, expected)
    assert list(model.state_dict()) == names
    assert [name for name, _ in masking.named_parameters()] == ["token"]


@pytest.mark.parametrize("position", ["before", "after"])
@torch.no_grad()
def test_hooks_put_on_before_or_after_see_the_token(position: str) -> None:
    model, pixels = classifier(), images(2, 3, 32, 32)
    model.vit.embeddings.register_forward_hook(lambda module, args, output: 0 * output)
    masking = PatchMasking(model, position)
    masking.mask = sample_mask(2, 16, 0.5, generator())
    assert torch.equal(model.vit.embeddings(pixels), torch.zeros(2, 17, 32))


def test_the_token_is_drawn_by_the_generator() -> None:
    first, again, other = (PatchMasking(classifier(), generator=generator(seed)).token for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 < first.std() < 0.04


def test_masked_patches_keep_the_dtype_of_autocast() -> None:
    masked = mask_patches(images(1, 3, 4).bfloat16(), torch.tensor([[True, False]]), torch.ones(1, 1, 4))
    assert masked.dtype == torch.bfloat16
    assert masked[0, 1].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("position", ["before", "after"])
def test_a_mask_that_does_not_fit_is_refused(position: str) -> None:
    model = classifier()
    masking = PatchMasking(model, position)
    for shape in [(2, 17), (1, 16)]:
        masking.mask = torch.zeros(shape, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"`mask` must be of shape \(2, 16\)"):
            model(images(2, 3, 32, 32))


def test_positions_are_before_or_after() -> None:
    with pytest.raises(ValueError, match="`position` must be 'before' or 'after', got 'paper'"):
        PatchMasking(classifier(), "paper")
