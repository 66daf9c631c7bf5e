"""GoogLeNet written in PyTorch; its blocks and its other layers replaced in two calls, and timed.

    python examples/torch_googlenet.py [--batches 1 8] [--threads 2] [--rounds 15]

The network has the paper's layers (Szegedy et al. 2015, table 1) with random weights and knows
nothing of pyinception. All rows of a batch size run in turns in one process: the network as it is,
under torch.compile, with its blocks replaced, with the stem's convolutions and normalisation
replaced too, and the blocks replaced under torch.compile. *difference* is
max|logits - logits of the network as it is| / max|logits of the network as it is|.
"""

import argparse
import copy

import torch
from torch import nn

from pyinception.bench.timing import interleave
from pyinception.interop.torch import replace_inception, replace_layers

#         C   1x1  3x3 red, 3x3  5x5 red, 5x5  pool projection
BLOCKS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
LIMIT = 1e-5  # of the difference


def conv(c: int, k: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the extent, divided by its stride, and its ReLU."""
    return nn.Sequential(nn.Conv2d(c, k, size, stride, size // 2), nn.ReLU(inplace=True))


def pool(size: int, stride: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(size, stride, padding=size // 2 if stride == 1 else 0, ceil_mode=True)


class Block(nn.Module):
    """[1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | max pool -> 1x1]."""

    def __init__(self, c: int, n1: int, r3: int, n3: int, r5: int, n5: int, proj: int) -> None:
        super().__init__()
        self.branch1 = conv(c, n1, 1)
        self.branch2 = nn.Sequential(conv(c, r3, 1), conv(r3, n3, 3))
        self.branch3 = nn.Sequential(conv(c, r5, 1), conv(r5, n5, 5))
        self.branch4 = nn.Sequential(pool(3, 1), conv(c, proj, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def googlenet(classes: int = 1000) -> nn.Sequential:
    """The network without its auxiliary heads, (N, 3, H, W) to logits; He's random weights."""
    norm = nn.LocalResponseNorm(5, 1e-4, 0.75)
    stem = [
        conv(3, 64, 7, 2),
        pool(3, 2),
        norm,
        conv(64, 64, 1),
        conv(64, 192, 3),
        norm,
        pool(3, 2),
    ]
    blocks = [Block(*widths) for widths in BLOCKS.values()]
    body = [*blocks[:2], pool(3, 2), *blocks[2:7], pool(3, 2), *blocks[7:]]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(1024, classes)]
    net = nn.Sequential(*stem, *body, *head)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.01)
    return net.eval().to(memory_format=torch.channels_last)


def compare(net: nn.Module, x: torch.Tensor, rounds: int, how: str) -> list[dict[str, float | str]]:
    """Rows of one batch size: name, median and spread in ms, difference of the logits."""
    replaced = copy.deepcopy(net)
    assert replace_inception(replaced) == len(BLOCKS)
    nets = {"torch": net, "torch.compile": torch.compile(net, backend=how)}
    nets["blocks replaced"] = replaced
    nets["replaced"] = copy.deepcopy(replaced)
    assert replace_layers(nets["replaced"]) == 4  # three convolutions, one normalisation used twice
    nets["blocks, torch.compile"] = torch.compile(replaced, backend=how)
    right = net(x)
    differences = {
        n: float((f(x) - right).abs().max() / right.abs().max()) for n, f in nets.items()
    }
    calls = {name: (lambda f=f: f(x)) for name, f in nets.items()}
    timed = interleave(calls, rounds=rounds, settle=5e-3)
    return [
        {"name": name, "ms": 1e3 * t.median, "p20": 1e3 * t.p20, "p80": 1e3 * t.p80}
        | {"difference": differences[name]}
        for name, t in timed.items()
    ]


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict[int, list[dict[str, float | str]]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, default=224, help="rows and columns of an image")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", default="inductor", help="backend of torch.compile")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net, tables = googlenet(), {}
    print(f"GoogLeNet, {options.size}x{options.size}, torch {torch.__version__}, ", end="")
    print(f"{options.threads} threads, channels_last")
    print(
        f"{'batch':>5}  {'network':24} {'ms':>8} {'p20 - p80':>17} {'x ours':>7} {'difference':>11}"
    )
    for batch in options.batches:
        x = torch.randn(batch, 3, options.size, options.size)
        x = x.to(memory_format=torch.channels_last)
        rows = tables[batch] = compare(net, x, options.rounds, options.compile)
        ours = next(row["ms"] for row in rows if row["name"] == "replaced")
        for row in rows:
            spread, times = f"{row['p20']:.1f} - {row['p80']:.1f}", row["ms"] / ours
            cells = f"{row['ms']:8.1f} {spread:>17} {times:7.2f} {row['difference']:11.1e}"
            print(f"{batch:5}  {row['name']:24} {cells}")
            assert row["difference"] <= LIMIT, f"{row['name']}: logits differ"
    return tables


if __name__ == "__main__":
    main()
