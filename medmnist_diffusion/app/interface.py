"""The page of `medmnist-diffusion app`: what is on it, and what happens when something is pressed. The work is the workbench's.

It is served on this machine only. Gradio's telemetry is off, and the fonts are the reader's own: no request leaves the machine.
"""

import logging
import os
import re
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt
from PIL import Image

from medmnist_diffusion.app.rating import Rating, start_rating
from medmnist_diffusion.app.workbench import KEPT_SECONDS, MOST_IMAGES, MOST_STEPS, Likeness, Workbench, saved
from medmnist_diffusion.data.conditioning import occurrences
from medmnist_diffusion.data.dataset import without_grey_axis
from medmnist_diffusion.data.pictures import VIEWS, pictures
from medmnist_diffusion.diffusion.sampling import generate_images, own_steps
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.generated import GeneratedImages
from medmnist_diffusion.publish.markdown import escaped
from medmnist_diffusion.publish.verdict import LIGHTS, SHOWN_LIGHTS, answers

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
try:
    import gradio as gr
except ImportError as error:
    raise UserError(f"the page needs {error.name}. Install it: pip install 'medmnist-diffusion[app]'.") from None

logger = logging.getLogger(__name__)
# Of all buttons and readers together.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1}
LARGEST_UPLOAD = 20 * 2**20  # bytes
# As many images in a row as fit, on a phone, too.
STYLE = """
.grid-container { grid-template-columns: repeat(auto-fill, minmax(var(--least, 7rem), 1fr)) !important }
.pairs { --least: 13rem }
"""
GALLERY: dict[str, Any] = {
    "show_label": False,
    "object_fit": "contain",
    "height": "auto",
    "format": "png",
    "buttons": ["fullscreen"],
}
SHOWN_SIDE = 168  # pixels that a small image is drawn with, at least
RESEARCH = "**Research only, not for diagnosis.**"
HERE = "127.0.0.1"
NOTICE = f"{RESEARCH} All of this runs on this machine; nothing is sent anywhere."
NOTICE_OF_SERVER = (
    f"{RESEARCH} All of this runs on the machine that serves this page: **send it no images of patients.**"
)
# Keys of the rating, wherever the reader is on its tab; not while a text is typed.
KEYS = """() => document.addEventListener("keydown", (event) => {
  if (/INPUT|TEXTAREA/.test(event.target.tagName) || event.repeat) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const button = document.getElementById({r: "said-real", g: "said-generated"}[event.key]);
  if (button?.offsetParent) button.click();
})"""


def build(benches: dict[str, Workbench], ratings: Path, notice: str = NOTICE) -> gr.Blocks:
    """The page for some pipelines.

    Args:
        benches: by name; the first is shown first.
        ratings: a folder for the answers to *real or generated?*.
        notice: stands above all else.
    """
    names = list(benches)
    with gr.Blocks(
        title="medmnist-diffusion", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.Markdown(f"# medmnist-diffusion\n{notice}")
        chosen = gr.Dropdown(names, value=names[0], label="Pipeline", elem_id="pipeline")
        with gr.Tab("Make images"):
            _make_tab(page, chosen, benches)
        with gr.Tab("Variants of an image"):
            _variants_tab(page, chosen, benches)
        with gr.Tab("How good?"):
            _figures_tab(page, chosen, benches)
        with gr.Tab("Real or generated?"):
            _rating_tab(chosen, benches, ratings)
        page.load(None, js=KEYS)
    return page


def serve(page: gr.Blocks, port: int | None, open_browser: bool, server_name: str | None = HERE) -> None:
    """Show the page until Ctrl-C; one piece of work at a time. With another `server_name` other machines see it, too.

    Args:
        server_name: None for $GRADIO_SERVER_NAME.

    Raises:
        UserError: if the port is taken.
    """
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.queue(max_size=16, default_concurrency_limit=1).launch(
            server_name=server_name, server_port=port, inbrowser=open_browser, share=False, max_file_size=LARGEST_UPLOAD,
            theme=theme, css=STYLE, footer_links=[], prevent_thread_lock=True, quiet=True, run_history=False,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"the page cannot be shown ({one_line(error)}). Give another --port.") from None
    logger.info("The page is at %s. Ctrl-C ends it.", address)
    page.block_thread()


def _said(work: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake of the reader's is a sentence on the page; so is what nobody thought of, which the log has whole."""

    @wraps(work)
    def wrapped(*given: Any) -> Any:
        try:
            return work(*given)
        except (UserError, ValueError) as error:
            raise gr.Error(one_line(error), print_exception=False) from None
        except Exception as error:
            logger.exception("the page: %s", work.__name__)
            raise gr.Error(f"{type(error).__name__}: {one_line(error)}", print_exception=False) from None

    return wrapped


def _whole(*numbers: float | None) -> list[int]:
    """What number fields hold.

    Raises:
        UserError: if one is empty.
    """
    if None in numbers:
        raise UserError("a number is missing: fill in every field.")
    return [int(number) for number in numbers if number is not None]


def _picture(image: np.ndarray, part: int = 0) -> Image.Image:
    """An image large enough to look at; of a volume its views, or a slice, 1 being the first."""
    shown = image[part - 1] if image.ndim > 3 and part else pictures(image[None])[0]
    scale = max(1, -(-SHOWN_SIDE // shown.shape[0]))
    flat = Image.fromarray(without_grey_axis(shown))
    return flat.resize((flat.width * scale, flat.height * scale), Image.Resampling.NEAREST)


def _gallery(made: GeneratedImages, part: int = 0) -> list[tuple[Image.Image, str]]:
    """Each with its name and its number among those of that name."""
    numbers = [number + 1 for _, number in occurrences(made.split.labels)]
    return [
        (_picture(image, part), f"{name} {number}")
        for image, name, number in zip(made.images, made.names, numbers, strict=True)
    ]


def _pairs(images: np.ndarray, likeness: Likeness) -> list[tuple[Image.Image, str]]:
    """Each image beside its nearest training image, and what that means."""
    shown = []
    copies = [None] * len(images) if likeness.copies is None else likeness.copies.tolist()
    for image, real, relative, copy in zip(images, likeness.real, likeness.relative, copies, strict=True):
        left, right = _picture(image), _picture(real)
        both = Image.new("RGB", (left.width + right.width + 4, left.height), "white")
        both.paste(left, (0, 0))
        both.paste(right, (left.width + 4, 0))
        says = "" if copy is None else ": counts as a copy" if copy else ": no nearer than real images are"
        shown.append((both, f"{relative:.2f}{says}"))
    return shown


def _pairs_text(name: str, likeness: Likeness | None) -> str:
    """What the pairs say; the pipeline's name stands first, as another one may have been chosen meanwhile."""
    if likeness is None:
        return (
            f"*{name}. The nearest training images are shown where `--dataset` names the data that it was trained on.*"
        )
    how = (
        "Left the generated image, right its nearest training image, whatever its brightness. The number is its distance, "
        "compared with the distance to the next 50 training images."
    )
    if likeness.copies is None or likeness.threshold is None:
        return f"**{name}. Whether these are copies cannot be judged**: {likeness.unjudged}. {how}"
    return (
        f"**{name}: {int(likeness.copies.sum())} of {len(likeness.copies)} count as copies.** {how} Of real images that the "
        f"pipeline has not seen {likeness.threshold.expected:.1%} fall below {likeness.threshold.value:.2f}."
    )


def _labels(bench: Workbench, all_of_them: bool) -> gr.CheckboxGroup:
    names, several = bench.conditioning.names, bench.conditioning.multi_label
    return gr.CheckboxGroup(
        names,
        value=[] if several else names if all_of_them else names[:1],
        label="Labels that every image shows, or none" if several else "Classes",
        interactive=True,
    )


def _slices(bench: Workbench) -> gr.Slider:
    volumes = len(bench.shape) > 3
    return gr.Slider(
        0, bench.shape[0] if volumes else 1, 0, step=1, label=f"Slice; 0 shows of {VIEWS}", visible=volumes
    )


def _guidance(bench: Workbench) -> gr.Number:
    own = bench.pipe.config.default_guidance_scale
    possible = bench.pipe.config.null_label is not None and not bench.pipe.distilled_steps
    return gr.Number(
        own, label="Guidance (1 is none)", minimum=1, maximum=8, step=0.1, visible=possible, interactive=True
    )


def _steps(bench: Workbench) -> gr.Number:
    """A distilled pipeline has no choice."""
    return gr.Number(own_steps(bench.pipe), visible=not bench.pipe.distilled_steps)


def _when_chosen(page: gr.Blocks, chosen: gr.Dropdown, show: Callable[[str], Any], outputs: list[Any]) -> None:
    """What depends on the pipeline is drawn when the page opens, and when another one is chosen."""
    page.load(_said(show), chosen, outputs)
    chosen.change(_said(show), chosen, outputs)


def _make_tab(page: gr.Blocks, chosen: gr.Dropdown, benches: dict[str, Workbench]) -> None:
    labels = gr.CheckboxGroup([], label="Classes", elem_id="labels")
    with gr.Row():
        count = gr.Number(4, label="Images of each", minimum=1, maximum=MOST_IMAGES, precision=0, elem_id="count")
        seed = gr.Number(0, label="Seed", minimum=0, maximum=2**32 - 1, precision=0, elem_id="seed")
        steps = gr.Number(10, label="Steps", minimum=1, maximum=MOST_STEPS, precision=0, elem_id="steps")
        guidance = gr.Number(1, label="Guidance", elem_id="guidance")
    press = gr.Button("Make images", variant="primary", elem_id="make")
    kept = gr.State(None)
    part = gr.Slider(0, 1, 0, step=1, label="Slice", visible=False, elem_id="slice")
    results = _results("made")

    def make(
        name: str,
        names: list[str],
        number: float | None,
        start: float | None,
        of: float | None,
        scale: float | None,
        one: int,
    ) -> Any:
        many, first, of_steps, _ = _whole(number, start, of, scale)
        made = benches[name].make(names, many, first, of_steps, float(scale or 1))
        return made, *_shown(benches[name], made, int(one))

    def show(name: str) -> Any:
        bench = benches[name]
        asked = _labels(bench, all_of_them=True), _steps(bench), _guidance(bench), _slices(bench)
        return *asked, None, *_nothing_made()

    _when_chosen(page, chosen, show, [labels, steps, guidance, part, kept, *results])
    press.click(_said(make), [chosen, labels, count, seed, steps, guidance, part], [kept, *results], **ONE_AT_A_TIME)
    part.change(_said(lambda made, one: _gallery(made, int(one)) if made else []), [kept, part], results[0])


def _results(what: str) -> list[Any]:
    """The places for what was made: gallery, both downloads, what its nearest training images say, and these."""
    shown = gr.Gallery(elem_id=what, **GALLERY)
    with gr.Row():
        as_png = gr.DownloadButton("Save as PNG", visible=False, elem_id=f"{what}-png")
        as_npz = gr.DownloadButton("Save as npz (zipped with its record)", visible=False, elem_id=f"{what}-npz")
    text = gr.Markdown(elem_id=f"{what}-likeness")
    pairs = gr.Gallery(visible=False, elem_id=f"{what}-pairs", elem_classes="pairs", **GALLERY)
    return [shown, as_png, as_npz, text, pairs]


def _shown(bench: Workbench, made: GeneratedImages, part: int = 0) -> tuple[Any, ...]:
    """What stands in `_results`."""
    likeness = bench.likeness(made.images)
    picture, arrays = saved(made)
    return (
        _gallery(made, part),
        gr.DownloadButton(value=picture, visible=True),
        gr.DownloadButton(value=arrays, visible=True),
        _pairs_text(bench.name, likeness),
        gr.Gallery(_pairs(made.images, likeness) if likeness else [], visible=likeness is not None),
    )


def _nothing_made() -> tuple[Any, ...]:
    """The same places, empty: what another pipeline made does not stay."""
    hidden = gr.DownloadButton(visible=False)
    return gr.Gallery([]), hidden, hidden, "", gr.Gallery([], visible=False)


def _variants_tab(page: gr.Blocks, chosen: gr.Dropdown, benches: dict[str, Workbench]) -> None:
    gr.Markdown(
        "An image of yours gets noise, and the pipeline takes it away. **A variant is as private as your image**: the less noise, "
        "the more of it stays, and a person may still be seen in it."
    )
    with gr.Row():
        given = gr.File(label=f"An image file ({_formats()})", type="filepath", elem_id="given")
        seen = gr.Image(label="As the pipeline sees it", interactive=False, type="pil", buttons=[], elem_id="seen")
    labels = gr.CheckboxGroup([], label="Classes", elem_id="variant-labels")
    with gr.Row():
        strength = gr.Slider(0.1, 1, 0.6, step=0.1, label="Strength: how much of it becomes noise", elem_id="strength")
        count = gr.Number(8, label="Variants", minimum=1, maximum=MOST_IMAGES, precision=0)
        seed = gr.Number(0, label="Seed", minimum=0, maximum=2**32 - 1, precision=0)
        guidance = gr.Number(1, label="Guidance")
    press = gr.Button("Make variants", variant="primary", elem_id="vary")
    notes = gr.Markdown(elem_id="notes")
    results = [seen, notes, *_results("variants")]

    def vary(
        name: str,
        path: str | None,
        names: list[str],
        far: float,
        number: float | None,
        first: float | None,
        scale: float | None,
    ) -> Any:
        if path is None:
            raise UserError("give an image first.")
        many, start, _ = _whole(number, first, scale)
        image, said, made = benches[name].variants(Path(path), names, many, start, float(far), float(scale or 1))
        return _picture(image), "\n".join(f"- {line}" for line in escaped(said)), *_shown(benches[name], made)

    def show(name: str) -> Any:
        return _labels(benches[name], all_of_them=False), _guidance(benches[name]), None, "", *_nothing_made()

    _when_chosen(page, chosen, show, [labels, guidance, *results])
    inputs = [chosen, given, labels, strength, count, seed, guidance]
    press.click(_said(vary), inputs, results, **ONE_AT_A_TIME)


def _formats() -> str:
    """What can be read here: two kinds of files need a package that may be missing."""
    medical = {"DICOM": "pydicom", "NIfTI": "nibabel"}
    return ", ".join(["PNG", "JPEG", "TIFF", *(name for name, module in medical.items() if find_spec(module))])


def _figures_tab(page: gr.Blocks, chosen: gr.Dropdown, benches: dict[str, Workbench]) -> None:
    said = gr.Markdown(elem_id="answers")
    plot = gr.Image(
        show_label=False, interactive=False, buttons=["fullscreen"], elem_id="ratios",
        alt_text="Every figure divided by its floor; 1 is as good as real images",
    )  # fmt: skip
    with gr.Accordion("The whole card", open=False):
        card = gr.HTML(elem_id="card")

    def show(name: str) -> Any:
        bench = benches[name]
        metrics = bench.metrics
        lines = ["It has not been evaluated: medmnist-diffusion evaluate."]
        if metrics:
            lines = [
                f"{SHOWN_LIGHTS[one.light]} **{one.question}** {escaped(one.answer)} {escaped(one.figures)}"
                for one in answers(metrics)
            ]
            lines.append(f"*{LIGHTS}*")
        ratios, text = bench.folder / "ratios.png", bench.folder / "README.md"
        value = Image.open(ratios).convert("RGB") if ratios.is_file() else None
        html = _card_html(text.read_text(encoding="utf-8")) if text.is_file() else ""
        return "\n\n".join(lines), gr.Image(value, visible=value is not None), html

    _when_chosen(page, chosen, show, [said, plot, card])


def _card_html(card: str) -> str:
    """A card without its metadata and pictures. HTML that somebody wrote into it is shown as text, and nothing is loaded."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)|</?(?:details|summary|sub)>", "", text)
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(text))


def _rating_tab(chosen: gr.Dropdown, benches: dict[str, Workbench], ratings: Path) -> None:
    gr.Markdown(
        "Half of the images are real, half are generated, in an order that nobody knows. Who cannot tell them apart is right in "
        "half of the cases. Every answer is saved."
    )
    start = gr.Button("Start, or go on", variant="primary", elem_id="start")
    words = gr.Markdown(elem_id="rated")
    image = gr.Image(
        label="Real or generated?", interactive=False, visible=False, buttons=[], height=360, elem_id="rate"
    )
    with gr.Row():
        real = gr.Button("Real (r)", visible=False, elem_id="said-real")
        generated = gr.Button("Generated (g)", visible=False, elem_id="said-generated")
    index = gr.Number(-1, visible=False)  # which image the reader sees: an answer to another one does not count
    current = gr.State(None)
    begun: dict[str, Rating] = {}  # one for all readers of a file

    def begin(name: str) -> Any:
        bench = benches[name]
        if bench.dataset is None:
            raise UserError(
                "this needs the data that the pipeline was trained on: medmnist-diffusion app PIPELINE --dataset DATASET."
            )
        path = ratings / f"rating_{name.replace('/', '_')}_{bench.weights}.json"
        if str(path) not in begun:
            made = start_rating(bench.dataset, lambda asked: generate_images(bench.pipe, asked), path)
            begun[str(path)] = made
        return str(path), *shown(begun[str(path)])

    def shown(rating: Rating) -> Any:
        at = rating.current
        if at is None:
            return -1, rating.in_words(), *hidden()
        buttons = gr.Button(visible=True), gr.Button(visible=True)
        return at, rating.in_words(), gr.Image(_picture(rating.images[at]), visible=True), *buttons

    def hidden() -> tuple[Any, ...]:
        return gr.Image(None, visible=False), gr.Button(visible=False), gr.Button(visible=False)

    def answered(said_real: bool) -> Callable[[str, float], Any]:
        def answer(path: str, at: float) -> Any:
            begun[path].answer(int(at), said_real)
            return shown(begun[path])

        return _said(answer)

    outputs = [index, words, image, real, generated]
    start.click(_said(begin), chosen, [current, *outputs], **ONE_AT_A_TIME)
    real.click(answered(True), [current, index], outputs, **ONE_AT_A_TIME)
    generated.click(answered(False), [current, index], outputs, **ONE_AT_A_TIME)
    chosen.change(lambda: (None, -1, "", *hidden()), None, [current, *outputs])
