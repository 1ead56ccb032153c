"""Real or generated? A page for one rater, so that looking becomes a measurement: one key an image, accuracy with its interval.

Served on this machine only, by the standard library. Half of the images are held-out real ones, half are generated, in random
order and of one class mix; every answer is saved as it is given.
"""

import base64
import io
import json
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.dataset import without_grey_axis
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.intervals import share_interval

logger = logging.getLogger(__name__)
IMAGES = 60
PAGE = """<!doctype html><meta charset="utf-8"><title>Real or generated?</title>
<style>body{{font:18px sans-serif;text-align:center;margin-top:8vh}}img{{width:336px;image-rendering:pixelated}}</style>
<h1>{title}</h1>{body}
<script>
onkeydown = async event => {{
  const answer = {{r: "real", g: "generated"}}[event.key];
  if (!answer || !document.querySelector("img")) return;
  await fetch("/answer", {{method: "POST", body: JSON.stringify({{index: {index}, answer}})}});
  location.reload();
}};
</script>"""


class Rating:
    """The images in their hidden order, and the answers so far (in `path`, as they are given)."""

    def __init__(self, real: np.ndarray, generated: np.ndarray, path: Path) -> None:
        """Args:
            real, generated: uint8 N×H×W×C, as many of either.
            path: of the answers; where it exists, the rating goes on in its order.

        Raises:
            UserError: if `path` is no rating of so many images.
        """
        self.path, self.finished = path, False  # finished: the result was shown
        self.answers: list[bool] = []
        self.order: list[int] = np.random.default_rng().permutation(len(real) + len(generated)).tolist()
        if path.is_file():
            try:
                saved = json.loads(path.read_text(encoding="utf-8"))
                self.answers, self.order = saved["said_real"], saved["order"]
                if sorted(self.order) != list(range(len(real) + len(generated))) or len(self.answers) > len(
                    self.order
                ):
                    raise ValueError("other images")
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is no rating of these images ({error}). Remove it to start anew.") from None
        self.images = np.concatenate([real, generated])[self.order]
        self.is_real = [at < len(real) for at in self.order]

    def answer(self, index: int, said_real: bool) -> None:
        """Only the image that is shown can be answered: a key pressed twice counts once."""
        if index == len(self.answers) < len(self.images):
            self.answers.append(said_real)
            known = self.is_real[: len(self.answers)]
            write_json(self.path, {"order": self.order, "said_real": self.answers, "is_real": known, **self.result()})

    def result(self) -> dict[str, Any]:
        """Rated images, the share told right, and its 95 % interval (0.5 is guessing)."""
        n = len(self.answers)
        right = sum(said == truth for said, truth in zip(self.answers, self.is_real, strict=False))
        return {"rated": n, "accuracy": right / n, "interval": share_interval(right, n)} if n else {"rated": 0}

    def page(self) -> str:
        index = len(self.answers)
        if index == len(self.images):
            result = self.result()
            low, high = result["interval"]
            right = f"{result['accuracy']:.2f} ({low:.2f} … {high:.2f})"
            body = f"<p>Told right: {right}; guessing gives 0.50.<p>Saved to {self.path.name}."
            self.finished = True
            return PAGE.format(title="Done", body=body, index=index)
        picture, image = io.BytesIO(), self.images[index]
        Image.fromarray(without_grey_axis(image)).save(picture, "png")
        source = base64.b64encode(picture.getvalue()).decode()
        keys = f"Image {index + 1} of {len(self.images)}: <b>r</b> real, <b>g</b> generated"
        body = f'<p><img src="data:image/png;base64,{source}"><p>{keys}'
        return PAGE.format(title="Real or generated?", body=body, index=index)


def make_server(rating: Rating, port: int = 0) -> ThreadingHTTPServer:
    """Serves the page on 127.0.0.1; port 0 is any free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._send(200, rating.page())
            else:
                self._send(404, "")

        def do_POST(self) -> None:
            try:
                given = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), 1000)))
                rating.answer(given["index"], {"real": True, "generated": False}[given["answer"]])
            except (KeyError, TypeError, ValueError):
                self._send(400, "an index and an answer are needed")
            else:
                self._send(200, "")

        def _send(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def rate(dataset: ImageDataset, generate: Callable[[np.ndarray], np.ndarray], output: Path) -> None:
    """Rate generated images beside held-out ones until all are done or Ctrl-C; answers given before are kept.

    Args:
        generate: makes images of the given labels.

    Raises:
        UserError: if there are no held-out images.
    """
    held_out = clean_held_out(dataset)
    if not len(held_out):
        raise UserError(
            f"{dataset.name} has no held-out image that does not stand in train, too: nothing to rate beside."
        )
    rows = np.random.default_rng(0).permutation(len(held_out))[: IMAGES // 2]
    rating = Rating(held_out.images[rows], generate(held_out.labels[rows]), output)
    server = make_server(rating)
    address = f"http://127.0.0.1:{server.server_port}/"
    logger.info("Open %s in a browser; press r or g for each image. Ctrl-C ends it.", address)
    try:
        while not rating.finished:
            server.handle_request()
    except KeyboardInterrupt:
        logger.info("")
    result = rating.result()
    if result["rated"]:
        low, high = result["interval"]
        logger.info(
            "%s",
            f"{result['rated']} rated, {result['accuracy']:.2f} told right ({low:.2f} … {high:.2f}); saved to {output}.",
        )
