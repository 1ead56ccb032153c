"""Real or generated? The page for one rater."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from medmnist_diffusion.app.rating import Rating, make_server
from medmnist_diffusion.errors import UserError


def test_rating_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    real, generated = (rng.integers(0, 256, (6, 28, 28, 1), np.uint8) for _ in range(2))
    path = tmp_path / "ratings.json"
    rating = Rating(real, generated, path)
    server = make_server(rating)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"

    def post(body: bytes) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{address}answer", data=body), timeout=10).read()

    for index in range(12):
        page = urllib.request.urlopen(address, timeout=10).read().decode()
        assert f"Image {index + 1} of 12" in page
        said_real = rating.is_real[index] if index else not rating.is_real[index]  # one wrong answer
        answer = json.dumps({"index": index, "answer": "real" if said_real else "generated"}).encode()
        post(answer)
        post(answer)  # a key held down
    with pytest.raises(urllib.error.HTTPError):
        post(b"{}")
    page = urllib.request.urlopen(address, timeout=10).read().decode()
    server.shutdown()
    expected = binomtest(11, 12).proportion_ci(0.95, method="wilson")
    saved = json.loads((tmp_path / "ratings.json").read_text())
    assert saved["accuracy"] == pytest.approx(11 / 12)
    assert saved["interval"] == pytest.approx([expected.low, expected.high])
    assert "0.92" in page
    again = Rating(real, generated, path)  # a rating goes on, in its order
    assert (again.result()["rated"], again.is_real) == (12, rating.is_real)
    with pytest.raises(UserError, match="no rating of these images"):
        Rating(real[:2], generated[:2], path)
