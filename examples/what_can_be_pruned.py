"""See what can be pruned, keep chosen layers whole, and replay an edited plan."""

import torch

import mipp
from mipp import zoo

model = zoo.resnet20()
print(mipp.inspect(model, torch.randn(1, 3, 32, 32), exclude=["layer3.*"]))

images = [torch.randn(32, 3, 32, 32)]
plan = mipp.prune(model, images, mipp.Budget(params=0.8), exclude=["layer3.*"], progress=False).plan
edited = plan.with_kept({"layer1.0.conv1": range(4)})  # four nodes of this group, whatever the method chose
small = mipp.apply(edited, model)
print("parameters:", sum(p.numel() for p in model.parameters()), "->", sum(p.numel() for p in small.parameters()))
