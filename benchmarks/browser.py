"""A real Chromium without a window, with WebGL in software, and what a page did in it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--use-gl=angle",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
)  # fmt: skip


def is_installed() -> bool:
    """Whether this machine has Chromium, its driver, and selenium."""
    return None not in (shutil.which("chromium"), shutil.which("chromedriver"), find_spec("selenium"))


@contextmanager
def chromium(size: tuple[int, int] = (1280, 800)) -> Iterator[Any]:
    """A selenium driver of a new browser with an empty profile and a window of a size in pixels."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory(prefix="geosod-chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = str(shutil.which("chromium"))
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        running = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            # The tab that the browser opens with asks for resources of its own.
            running.get("about:blank")
            running.get_log("performance")
            yield running
        finally:
            running.quit()


def open_page(driver: Any, path: Path, *, seconds: float = 60) -> None:
    """Open a page of `geosod view`, and wait until its map is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.as_uri())
    WebDriverWait(driver, seconds).until(lambda d: d.execute_script("return Boolean(window.geosod)"))
    next_frame(driver)


def next_frame(driver: Any) -> float:
    """Milliseconds until everything that was asked for is drawn and has reached the screen."""
    return float(
        driver.execute_async_script(
            """
            const done = arguments[0], deck = window.geosod.map.deck, start = performance.now();
            deck.redraw('test');
            const gl = document.querySelector('#map canvas').getContext('webgl2');
            gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
            requestAnimationFrame(() => done(performance.now() - start));
            """
        )
    )


def complaints(driver: Any) -> list[str]:
    """What the page wrote to the console, but for news."""
    return [f"{entry['level']} {entry['message']}" for entry in driver.get_log("browser") if entry["level"] != "INFO"]


def requests(driver: Any) -> list[str]:
    """Addresses that the page asked for, besides those of data that is in it."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return [url for url in found if not url.startswith(("data:", "blob:"))]
