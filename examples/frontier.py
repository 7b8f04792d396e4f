"""The curve of accuracy against size, from one set of statistics."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import mipp

torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(200):
    loss = nn.functional.cross_entropy(model(x[:1400]), y[:1400])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    return 100 * float((network(x[1400:]).argmax(1) == y[1400:]).float().mean())


budgets = [mipp.Budget(macs=share) for share in (0.8, 0.6, 0.4, 0.2, 0.1, 0.05)]
results = mipp.frontier(model, [x[:1024]], budgets, evaluate=accuracy, progress=False)
print(f"dense: {results[0].report.before.macs:6,} MACs, {accuracy(model):.1f} %")
for result in results:
    after = result.report.after
    print(f"       {after.macs:6,} MACs, {after.metrics['score']:.1f} %  {'#' * round(after.metrics['score'] / 2)}")
