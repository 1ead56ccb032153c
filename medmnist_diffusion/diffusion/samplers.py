"""Which samplers there are, and the record of how images are drawn. Light: a command line reads it before torch is needed."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medmnist_diffusion.errors import UserError

# Name → diffusers' class. DPM-Solver++ visits the pipeline's own `fast_timesteps`: with steps uniform in t, 20 of them end too
# early and leave images without fine texture.
SAMPLERS = {"dpmsolver++": "DPMSolverMultistepScheduler", "ddim": "DDIMScheduler", "ddpm": "DDPMScheduler"}
DEFAULT_SAMPLER = "dpmsolver++"
DISTILLED_SAMPLER = "ddim"  # of pipelines that were distilled to a few steps
DEFAULT_STEPS = {"dpmsolver++": 10, "ddim": 20, "ddpm": 100}  # the ancestral sampler needs more, up to its 1,000


class Sampling(BaseModel):
    """How images are drawn from a pipeline; what result files carry.

    Attributes:
        sampler: a name of SAMPLERS.
        num_inference_steps: default: the sampler's own, of DEFAULT_STEPS.
        guidance_scale: 1 is none; None is the pipeline's own.
        seed: with an image's class and number it determines the image.
        batch_size: images through the network at once; the images do not depend on it, so that no file carries it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: Literal["dpmsolver++", "ddim", "ddpm"] = "dpmsolver++"
    num_inference_steps: Annotated[int, Field(ge=1)] = Field(
        default_factory=lambda given: DEFAULT_STEPS[given["sampler"]]
    )
    guidance_scale: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1, exclude=True)] = 128

    @model_validator(mode="before")
    @classmethod
    def what_is_none_was_not_given(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}


def checked_sampling(**given: Any) -> Sampling:
    """`Sampling(**given)`; what is None is left to the defaults.

    Raises:
        UserError: naming the option that is out of range.
    """
    try:
        return Sampling(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        name, need = problem["loc"][0], problem["msg"].removeprefix("Input should be ")
        raise UserError(f"--{name} is {problem['input']}; it should be {need}.") from None
