"""Generated images as a PyTorch data set.

python examples/torch_dataset.py
"""

from torch.utils.data import DataLoader

import medmnist_diffusion as md

images = md.generate("pneumoniamnist-28", {"normal": 24, "pneumonia": 8}, seed=0)
dataset = images.as_torch_dataset()

for batch, labels in DataLoader(dataset, batch_size=16, shuffle=True):
    print(tuple(batch.shape), f"{float(batch.min()):.2f} … {float(batch.max()):.2f}", labels.tolist())
