"""torchvision's googlenet and inception_v3 as this project reads their sources, in torch.

Written from the layer tables, with torchvision's parameter names; any class count, input planes and
images of any size that the pools allow. No dropout, no input transform.
"""

import torch
from torch import nn
from torch.nn import functional as F

GOOGLENET = {
    "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64), "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64), "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128), "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


class Unit(nn.Module):
    def __init__(self, c, k, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(c, k, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(k, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Four(nn.Module):
    def __init__(self, c, n1, r3, n3, r5, n5, proj):
        super().__init__()
        self.branch1 = Unit(c, n1, 1)
        self.branch2 = nn.Sequential(Unit(c, r3, 1), Unit(r3, n3, 3, 1, 1))
        self.branch3 = nn.Sequential(Unit(c, r5, 1), Unit(r5, n5, 3, 1, 1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), Unit(c, proj, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNetHead(nn.Module):
    def __init__(self, c, classes):
        super().__init__()
        self.conv = Unit(c, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x):
        x = self.conv(F.adaptive_avg_pool2d(x, 4))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class GoogLeNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.conv2 = Unit(3, 64, 7, 2, 3), Unit(64, 64, 1)
        self.conv3 = Unit(64, 192, 3, 1, 1)
        for name, widths in GOOGLENET.items():
            setattr(self, f"inception{name}", Four(*widths))
        self.aux1, self.aux2 = GoogLeNetHead(512, classes), GoogLeNetHead(528, classes)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x):
        heads = []
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for name in GOOGLENET:
            if name == "4a":
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            if name == "5a":
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            x = getattr(self, f"inception{name}")(x)
            if name in ("4a", "4d"):
                heads.append(getattr(self, "aux1" if name == "4a" else "aux2")(x))
        return self.fc(x.mean((2, 3))), *heads


class Mixed(nn.Module):
    """Branches as chains of attribute names; "avg" and "max" are pools, a pair forks."""

    def __init__(self, c, branches):
        super().__init__()
        self.chains = []
        for chain in branches:
            width, names = c, []
            for stage in chain:
                if isinstance(stage, str):
                    names.append(stage)
                    continue
                for name, *numbers in stage if isinstance(stage, list) else [stage]:
                    setattr(self, name, Unit(width, *numbers))
                last = [n for n, *_ in stage] if isinstance(stage, list) else stage[0]
                names.append(last)
                width = stage[1] if isinstance(stage, tuple) else width
            self.chains.append(names)

    def forward(self, x):
        results = []
        for chain in self.chains:
            t = x
            for name in chain:
                if name == "avg":
                    t = F.avg_pool2d(t, 3, 1, 1)
                elif name == "max":
                    t = F.max_pool2d(t, 3, 2)
                elif isinstance(name, list):
                    t = torch.cat([getattr(self, n)(t) for n in name], 1)
                else:
                    t = getattr(self, name)(t)
            results.append(t)
        return torch.cat(results, 1)


def _a(c, pool):
    return Mixed(c, [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5, 1, 2)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3, 1, 1),
         ("branch3x3dbl_3", 96, 3, 1, 1)],
        ["avg", ("branch_pool", pool, 1)],
    ])  # fmt: skip


def _c(n):
    wide, tall = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    return Mixed(768, [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", n, 1), ("branch7x7_2", n, *wide), ("branch7x7_3", 192, *tall)],
        [("branch7x7dbl_1", n, 1), ("branch7x7dbl_2", n, *tall), ("branch7x7dbl_3", n, *wide),
         ("branch7x7dbl_4", n, *tall), ("branch7x7dbl_5", 192, *wide)],
        ["avg", ("branch_pool", 192, 1)],
    ])  # fmt: skip


def _e(c):
    wide, tall = (384, (1, 3), 1, (0, 1)), (384, (3, 1), 1, (1, 0))
    return Mixed(c, [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), [("branch3x3_2a", *wide), ("branch3x3_2b", *tall)]],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3, 1, 1),
         [("branch3x3dbl_3a", *wide), ("branch3x3dbl_3b", *tall)]],
        ["avg", ("branch_pool", 192, 1)],
    ])  # fmt: skip


class InceptionHead(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv0, self.conv1 = Unit(768, 128, 1), Unit(128, 768, 5)
        self.fc = nn.Linear(768, classes)

    def forward(self, x):
        return self.fc(self.conv1(self.conv0(F.avg_pool2d(x, 5, 3))).mean((2, 3)))


class InceptionV3(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = Mixed(288, [
            [("branch3x3", 384, 3, 2)],
            [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3, 1, 1),
             ("branch3x3dbl_3", 96, 3, 2)],
            ["max"],
        ])  # fmt: skip
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(_c, (128, 160, 160, 192))
        self.AuxLogits = InceptionHead(classes)
        self.Mixed_7a = Mixed(768, [
            [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
            [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7), 1, (0, 3)),
             ("branch7x7x3_3", 192, (7, 1), 1, (3, 0)), ("branch7x7x3_4", 192, 3, 2)],
            ["max"],
        ])  # fmt: skip
        self.Mixed_7b, self.Mixed_7c = _e(1280), _e(2048)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in "5b 5c 5d 6a 6b 6c 6d 6e".split():
            x = getattr(self, f"Mixed_{name}")(x)
        head = self.AuxLogits(x)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return self.fc(x.mean((2, 3))), head


def randomised(net):
    """The network in evaluation, its running statistics set as training would leave them."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return net.eval()
