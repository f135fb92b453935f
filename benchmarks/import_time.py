"""What `import supersam_hf` adds to `from transformers import SamModel, ViTForImageClassification`, in seconds.

    python benchmarks/import_time.py

Both imports are timed one after the other in fresh interpreters; prints the median of five.
"""

import json
import statistics
import subprocess
import sys


SCRIPT = """
import time
start = time.perf_counter()
from transformers import SamModel, ViTForImageClassification
stock = time.perf_counter()
import supersam_hf
print(stock - start, time.perf_counter() - stock)
"""


def main() -> None:
    command = [sys.executable, "-c", SCRIPT]
    printed = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(5)]
    stock, ours = zip(*(map(float, line.split()) for line in printed))
    print(json.dumps({"stock_s": statistics.median(stock), "supersam_hf_adds_s": statistics.median(ours)}))


if __name__ == "__main__":
    main()
