"""``make screenshot``: the status page as the README shows it, taken in a real Chromium.

A relay on free ports forwards three minutes of made-up traffic, in waves, to four consumers.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import time
from pathlib import Path

import harness
from browser import Browser

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "status-page.png"
TRAFFIC_S = 180
WIDTH, HEIGHT = 940, 600


def publish(publishers: list[harness.Publisher]) -> None:
    """Publish some hundred messages a second, more or fewer by the minute."""
    start = time.monotonic()
    while (passed_s := time.monotonic() - start) < TRAFFIC_S:
        rate = 300 + 200 * math.sin(passed_s / 12) + 60 * math.sin(passed_s / 3)
        for _ in range(int(rate / 10)):
            body = b'{"msg": "%s"}' % (b"x" * random.randrange(200, 900))
            random.choice(publishers).send(b"org.example.prod.logger.log", body)
        time.sleep(0.1)


def main() -> int:
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as profile:
        port = harness.free_port()
        with harness.Site(Path(root), relay_http=port) as site:
            site.relay()
            consumers = [site.subscriber() for _ in range(4)]
            publishers = [site.publisher() for _ in range(3)]
            with Browser(Path(profile), WIDTH, HEIGHT) as browser:
                browser.open(f"http://127.0.0.1:{port}/")
                browser.run("document.documentElement.style.overflow = 'hidden'")  # no scroll bar
                publish(publishers)
                browser.screenshot(PICTURE, is_whole=False)
            print(f"{PICTURE}: {len(consumers[0].received)} messages forwarded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
