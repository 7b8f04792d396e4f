"""Prune in three rounds while a network learns to read digits; the optimiser and its scheduler go on."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mipp
from mipp.integrations import Rounds

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target)
train = DataLoader(TensorDataset(images[:1500], labels[:1500]), batch_size=50, shuffle=True)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6 * len(train))

schedule = mipp.Schedule(macs=[0.7, 0.5, 0.3], every=1, unit="epochs", first=2)
rounds = Rounds(schedule, [images[:512]])
for epoch in range(1, 7):
    for batch, target in train:
        loss = nn.functional.cross_entropy(model(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    rounds.advance(model, [optimizer], epoch)
    with torch.no_grad():
        hits = model.eval()(images[1500:]).argmax(1) == labels[1500:]
    model.train()
    print(f"epoch {epoch}: {sum(p.numel() for p in model.parameters())} parameters, {100 * hits.float().mean():.1f} %")
