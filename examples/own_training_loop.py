"""A training loop of your own from our parts: data, network, loss, batches, pipeline.

    python examples/own_training_loop.py

`training/train.py` is the same with all that a long run needs: an average of the weights, precision, checkpoints, held-out loss.
"""

import torch

import medmnist_diffusion as md
from medmnist_diffusion.diffusion.batches import TrainingBatches
from medmnist_diffusion.diffusion.loss import Objective, diffusion_loss
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline, PixelUnshuffle

torch.manual_seed(0)
dataset = md.load_dataset("phantom")
scheduler = build_noise_scheduler()  # a stock DDPMScheduler
encoder = PixelUnshuffle(2, dataset.model_shape, multiple=4)  # 1×28×28 becomes 4×14×14, and back
network = build_unet(dataset.conditioning, encoder, (32, 64))  # a stock UNet2DModel
objective = Objective(scheduler, encoder, dataset.conditioning)
optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
batches = TrainingBatches(dataset.train, 32, 0, 1000, dataset.conditioning, noise_shape=encoder.padded_shape)

for step in range(60):
    loss = diffusion_loss(network, batches[step], objective).weighted.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.3f}")

id2label = dict(enumerate(dataset.conditioning.names))
pipe = ClassConditionalDDPMPipeline(network.eval(), scheduler, id2label, encoder.factor, dataset.num_classes)
pipe.save_pretrained(
    "my_pipeline"
)  # DiffusionPipeline.from_pretrained("my_pipeline", trust_remote_code=True) loads it
print("my_pipeline is written")
