"""Images per second of a sandwich step against a stock `SamModel` trained the same three times over.

    python benchmarks/sandwich_throughput.py [--config facebook/sam-vit-base's size is the default] [--image_size 1024]

Random weights, box prompts, Dice loss, AdamW; bf16 autocast on a GPU. Both sides run in interleaved rounds of one
process, and the ratio is taken round by round. Prints a JSON line.
"""

import argparse
import json

import torch
from transformers import SamModel

from supersam_hf import ElasticSpace, SuperSamConfig, SuperSamModel
from supersam_hf.measure import compare_latency, hardware
from supersam_hf.models.supersam.extraction_supersam import stock_sam_config
from supersam_hf.training.losses import dice_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=1024, help="px a side")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8, help="boxes an image")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = args.image_size
    config = SuperSamConfig(
        vision_config={"image_size": size, "initializer_range": 0.02, "scale": 1.0},
        prompt_encoder_config={"image_size": size},
    )
    supernet = SuperSamModel(config).to(device).train()
    stock = SamModel(stock_sam_config(config)).to(device).train()
    images = torch.randn(args.batch_size, 3, size, size, device=device)
    boxes = torch.tensor([0.2, 0.3, 0.7, 0.8], device=device).mul(size).expand(args.batch_size, args.prompts, 4)
    target = (torch.rand(args.batch_size, args.prompts, size // 4, size // 4, device=device) > 0.5).float()
    space = ElasticSpace.for_config(config)
    generator = torch.Generator().manual_seed(0)

    def step(model: SamModel, optimizer: torch.optim.Optimizer, choices: list[dict]) -> None:
        for kwargs in choices:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                masks = model(pixel_values=images, input_boxes=boxes, multimask_output=False, **kwargs).pred_masks
            (dice_loss(masks[:, :, 0].float().sigmoid(), target).mean() / 3).backward()
        optimizer.step()
        optimizer.zero_grad()

    def sandwich() -> None:
        subnets = (space.largest(), space.smallest(), space.sample(generator))
        step(supernet, optimizers[0], [{"subnet": subnet} for subnet in subnets])

    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in (supernet, stock)]
    forwards = {"stock three times": lambda: step(stock, optimizers[1], [{}] * 3), "sandwich": sandwich}
    timed = compare_latency(forwards, args.rounds, warmup=2, device=device)
    result = {
        name: {
            "images_per_second": args.batch_size / (timing.latency.median_ms / 1e3),
            "time_ratio": timing.ratio,
            "time_ratio_p10": timing.ratio_p10,
            "time_ratio_p90": timing.ratio_p90,
        }
        for name, timing in timed.items()
    }
    print(json.dumps({**result, **vars(args), "hardware": hardware(device)}))


if __name__ == "__main__":
    main()
