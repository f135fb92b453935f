"""Random changes of training images; all randomness comes from the generator that is passed in."""

import numpy as np
import torch
from PIL import Image

from .classification_arguments import ImageClassificationArguments


CROP_ATTEMPTS = 10
CROP_RATIOS = (3 / 4, 4 / 3)
# Random erasing as DeiT takes it from timm: share of the area and ratio of the sides of the rectangle.
ERASED_SHARE = (0.02, 1 / 3)
ERASED_RATIOS = (0.3, 1 / 0.3)
# kornia's operations whose ranges fit, with DeiT's translation and shear (in 180 degrees: kornia's own go up to 54).
SHARED_OPERATIONS: list[list[tuple[str, float, float | None]]] = [
    [("auto_contrast", 0, 1)],
    [("equalize", 0, 1)],
    [("invert", 0, 1)],
    [("rotate", -30.0, 30.0)],
    [("posterize", 4.0, 8.0)],
    [("solarize_add", 0.0, 0.43)],
    [("shear_x", -0.093, 0.093)],
    [("shear_y", -0.093, 0.093)],
    [("translate_x", -0.45, 0.45)],
    [("translate_y", -0.45, 0.45)],
]


def rand_augment_policy(magnitude: int) -> list[list[tuple[str, float, float | None]]]:
    """The operations of RandAugment for kornia, at a magnitude of 1 to 9.

    kornia's solarize gets weaker with the magnitude, and its colour operations know one direction only; here, as in
    DeiT's "inc1", all get stronger and colours go both ways (as two operations each). kornia adds to the brightness
    where PIL multiplies: half the amount.
    """

    def fixed(name: str, value: float) -> list[tuple[str, float, float | None]]:
        return [(name, value - 1e-3, value + 1e-3)]  # kornia interpolates between two

    amount = 0.9 * magnitude / 10
    enhanced = [(name, amount) for name in ("color", "contrast", "sharpness")] + [("brightness", amount / 2)]
    both = [fixed(name, 1 + sign * change) for name, change in enhanced for sign in (1, -1)]
    return [*SHARED_OPERATIONS, fixed("solarize", 1 - magnitude / 10), *both]


def random_resized_crop(
    image: Image.Image, side: int, min_scale: float, resample: int, rng: np.random.Generator
) -> Image.Image:
    """A random part of an image, resized to (side, side).

    Its area is uniform in [`min_scale`, 1] of the image's, the logarithm of its width over height in that of
    [3/4, 4/3]. After ten draws that do not fit it is the largest central part of such a shape.
    """
    x, y, width, height = _random_box(image.width, image.height, min_scale, rng)
    return image.resize((side, side), Image.Resampling(resample), box=(x, y, x + width, y + height))


def _random_box(width: int, height: int, min_scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part."""
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(min_scale, 1)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIOS)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    low, high = CROP_RATIOS
    w, h = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
    return (width - w) // 2, (height - h) // 2, w, h


def random_erasing(pixel_values: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Replaces a rectangle of normalised pixels (3, height, width) by normal noise.

    Its area is uniform in [0.02, 1/3] of the image's, the logarithm of its height over width in that of [0.3, 10/3];
    an image for which ten draws do not fit stays as it is.
    """
    height, width = pixel_values.shape[1:]
    for _ in range(CROP_ATTEMPTS):
        area = height * width * rng.uniform(*ERASED_SHARE)
        ratio = np.exp(rng.uniform(*np.log(ERASED_RATIOS)))
        h, w = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < h < height and 0 < w < width:
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            noise = rng.standard_normal((len(pixel_values), h, w), dtype=np.float32)
            erased = pixel_values.clone()
            erased[:, y : y + h, x : x + w] = torch.from_numpy(noise)
            return erased
    return pixel_values


class ColorAugmentation:
    """Colour jitter, then RandAugment, by kornia.

    Args:
        args (`ImageClassificationArguments`): `color_jitter` and the fields of RandAugment.

    Raises:
        ValueError: If kornia is not installed.
    """

    def __init__(self, args: ImageClassificationArguments) -> None:
        try:
            from kornia.augmentation import ColorJitter
            from kornia.augmentation.auto import RandAugment
        except ImportError as error:
            raise ValueError(
                "`data.rand_augment` and `data.color_jitter` need kornia: `pip install supersam-hf[augment]`."
            ) from error
        self.operations: list[torch.nn.Module] = []
        if args.color_jitter > 0:
            self.operations.append(ColorJitter(args.color_jitter, args.color_jitter, args.color_jitter, 0.0, p=1.0))
        if args.rand_augment:
            # kornia counts magnitudes in thirtieths.
            magnitude = 3 * args.rand_augment_magnitude
            self.operations.append(
                RandAugment(
                    args.rand_augment_num_ops, magnitude, policy=rand_augment_policy(args.rand_augment_magnitude)
                )
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The changed image, RGB and of the same size."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255  # (1, 3, height, width)
        # kornia draws from torch's own CPU generator, which is put back; a GPU's is not touched.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            for operation in self.operations:
                pixels = operation(pixels).clamp(0, 1)
        return Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().byte().numpy())
