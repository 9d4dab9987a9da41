import argparse
import random

import torch
import torchvision
from saving import save
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--weights")
parser.add_argument("--out")
parser.add_argument("--steps", type=int)
parser.add_argument("--lr", type=float)
parser.add_argument("--round", dest="number", type=int)
arguments = parser.parse_args()
number = arguments.number
network = torchvision.models.get_model("resnet18", num_classes=10)
network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
network.maxpool = nn.Identity()
network.load_state_dict(torch.load(arguments.weights))
network = network.eval().requires_grad_(False).cuda()
labels = torch.arange(10).cuda()
images = torch.randn((len(labels), 3, 8, 8), device="cuda", requires_grad=True)
optimizer = torch.optim.Adam([images], lr=arguments.lr)
for step in range(arguments.steps):
    moved = torch.roll(images, random.randint(0, 1), 3)
    cost = nn.functional.cross_entropy(network(moved), labels)
    optimizer.zero_grad()
    cost.backward()
    optimizer.step()
    images.data.clamp_(-2, 2)
for place in range(len(images)):
    save(arguments.out, int(labels[place]), number, images[place])
