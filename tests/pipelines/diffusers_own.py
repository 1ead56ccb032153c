"""Our pipeline under diffusers' own PipelineTesterMixin, for test_diffusers_own.py; DOES_NOT_APPLY says what is left out."""

import unittest
from typing import Any

import torch
from diffusers import UNet2DModel

from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from tests.pipelines.test_pipelines_common import PipelineTesterMixin  # type: ignore[import-untyped]

DOES_NOT_APPLY = {
    "test_inference_batch_single_identical": "one generator gives every image a stream of its own, so that image 0 is the same "
    "however many are made; diffusers' pipelines draw the noise of a batch from it",
    "test_components_function": "it makes a pipeline of the components alone, without the numbers: that is an error here, since "
    "names, factor and null class would be lost",
    "test_encode_prompt_works_in_isolation": "there is no prompt",
    "test_num_images_per_prompt": "there is no prompt; num_images_per_label is tested by us",
}


class OurPipeline(PipelineTesterMixin, unittest.TestCase):
    pipeline_class = ClassConditionalDDPMPipeline
    params = frozenset({"class_labels", "guidance_scale", "num_inference_steps"})
    batch_params = frozenset({"class_labels"})
    callback_cfg_params = frozenset({"prompt_embeds"})
    required_optional_params = PipelineTesterMixin.required_optional_params - {"num_images_per_prompt"}

    def get_dummy_components(self) -> dict[str, Any]:
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=14, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), num_class_embeds=3,
        )  # fmt: skip
        return {"unet": unet.eval(), "scheduler": build_noise_scheduler(), "pixel_unshuffle": 2, "null_label": 2}

    def get_dummy_inputs(self, device: str, seed: int = 0) -> dict[str, Any]:
        return {
            "class_labels": 1, "generator": torch.Generator().manual_seed(seed), "num_inference_steps": 4, "guidance_scale": 2.0,
            "output_type": "np",
        }  # fmt: skip


for _name in DOES_NOT_APPLY:
    setattr(OurPipeline, _name, None)
