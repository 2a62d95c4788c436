"""Figures of the journal's pages over HTTP: see __main__.py."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import time
import urllib.parse
import urllib.request
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import numpy as np
from harness import Process, Site, free_port, wait_for

from fedmsg_relay.journal.records import Packer
from fedmsg_relay.journal.writer import Writer
from figures import Failed

MESSAGES, DAYS = 10_000_000, 2
BATCH = 5_000
SIZE_MAX = 16 * 2**30
PAGE_MS = 50
"""What a page may take: the median of each kind.  One whose files the system has dropped from its
memory waits for the disk."""

TIMES = 20
"""How often each kind of page is asked for, each time of another span."""

SKEWED_EVERY = 1_000
"""Every so many messages have a timestamp that is an hour off."""

TOPICS = [
    f"org.fedoraproject.prod.{category}.{kind}"
    for category in ("git", "bodhi", "copr", "buildsys", "wiki")
    for kind in ("start", "stop", "change", "vote")
]
TEXT = "x" * 250


def pages(site: Site, relay: Process) -> Iterator[str]:
    """A page of /raw out of ten million messages: any page, in any order, of any topic"""
    relay.end()
    journal = site.root / "journal"
    needed = MESSAGES * 700
    free = shutil.disk_usage(site.root).free
    if free < needed:
        raise Failed(f"{site.root} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} are needed")
    start = time.monotonic()
    arrivals, times = _write(journal)
    size = _bytes(journal, "journal")
    yield (
        f"{MESSAGES:,} messages, {size / 1e9:.2f} GB, written in {time.monotonic() - start:.0f} s"
    )
    site.write(
        relay_http=free_port(),
        relay_journal=str(journal),
        relay_journal_size=SIZE_MAX,
        relay_journal_age=0,
    )
    start = time.monotonic()
    relay = site.relay(until="forwarding;")
    wait_for(lambda: _ask(site, rows_per_page=1)[0] == 200, "the index", 3600)
    index = _bytes(journal, "index")
    yield (
        f"index: made in {time.monotonic() - start:.0f} s, {index / MESSAGES:.1f} bytes a message,"
        f" {100 * index / size:.1f} % of the journal"
    )
    pid = int("".join(each.read_text() for each in _tasks(relay.pid)))
    yield from _measure(site, arrivals, times, pid)
    relay.end()


def _tasks(pid: int) -> Iterator[Path]:
    """The files with the children of a process, by thread."""
    return Path(f"/proc/{pid}/task").glob("*/children")


def _write(journal: Path) -> tuple[Any, Any]:
    """Write the journal; return arrivals and own timestamps in microseconds."""
    packer = Packer()
    writer = Writer(journal, packer.marker, size_max=SIZE_MAX, age_max_s=float("inf"), sync=False)
    arrivals, times = array("q"), array("q")
    now_us = time.time_ns() // 1000
    step = DAYS * 86_400 * 10**6 // MESSAGES
    batch = []
    topics = [topic.encode() for topic in TOPICS]
    for number in range(MESSAGES):
        arrival = now_us - (MESSAGES - number) * step
        own_s = arrival // 10**6
        if number % SKEWED_EVERY == 0:
            own_s -= 3600
        arrivals.append(arrival)
        times.append(own_s * 10**6)
        topic = topics[number % len(topics)]
        body = (
            b'{"i": %d, "msg": {"number": %d, "text": "%s"}, "msg_id": "2026-%032x", '
            b'"timestamp": %d, "topic": "%s", "username": "apache"}'
        ) % (number % 1000, number, TEXT.encode(), number, own_s, topic)
        batch.append(packer.pack([topic, body], arrival))
        if len(batch) == BATCH:
            writer.append(batch)
            batch = []
    writer.append(batch)
    writer.close()
    return np.array(arrivals), np.array(times)


def _bytes(journal: Path, suffix: str) -> int:
    return sum(path.stat().st_size for path in journal.glob(f"*.{suffix}"))


def _ask(site: Site, **arguments: Any) -> tuple[int, dict[str, Any], float]:
    """Ask for a page; return the status, the answer and the time it took in milliseconds."""
    query = urllib.parse.urlencode(arguments)
    url = f"http://127.0.0.1:{site.config['relay_http']}/raw?{query}"
    start = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, content = error.code, error.read()
    took_ms = (time.monotonic() - start) * 1000
    return status, json.loads(content), took_ms


def _measure(site: Site, arrivals: Any, times: Any, pid: int) -> Iterator[str]:
    slowest = 0.0
    for order in ("asc", "desc"):
        for topic in (None, TOPICS[7]):
            for which in ("first", "middle", "last"):
                before_s = load.cpu_s(pid)
                took = [_page(site, arrivals, times, order, topic, which) for _ in range(TIMES)]
                cpu_ms = (load.cpu_s(pid) - before_s) / TIMES * 1000
                median = statistics.median(took)
                slowest = max(slowest, median)
                yield (
                    f"{which} page, {order}, {'with a topic' if topic else 'all topics'}:"
                    f" {median:.1f} ms, at most {max(took):.1f} ms;"
                    f" {cpu_ms:.1f} ms of a processor"
                )
    if slowest > PAGE_MS:
        raise Failed(f"a page took {slowest:.0f} ms, more than {PAGE_MS}")


def _page(
    site: Site, arrivals: Any, times: Any, order: str, topic: str | None, which: str
) -> float:
    """Ask for a page of a span that was not asked for; return the milliseconds."""
    length_s = DAYS * 86_400
    first_s = arrivals[0] / 1e6 + random.uniform(0.05, 0.2) * length_s
    last_s = arrivals[-1] / 1e6 - random.uniform(0.05, 0.2) * length_s
    span = round(first_s * 10**6), round(last_s * 10**6)
    matches = (arrivals >= span[0]) & (arrivals <= span[1])
    matches |= (times >= span[0]) & (times <= span[1])
    numbers = np.flatnonzero(matches)
    if topic:
        numbers = numbers[numbers % len(TOPICS) == TOPICS.index(topic)]
    total = len(numbers)
    count = -(-total // 100)
    page = {"first": 1, "middle": count // 2, "last": count}[which]
    if order == "desc":
        numbers = numbers[::-1]
    expected = numbers[(page - 1) * 100 : page * 100].tolist()
    arguments = {"start": span[0] / 1e6, "end": span[1] / 1e6, "order": order, "page": page}
    if topic:
        arguments["topic"] = topic
    status, answer, took_ms = _ask(site, rows_per_page=100, **arguments)
    found = [message["msg"]["number"] for message in answer.get("raw_messages", [])]
    if status != 200 or answer["total"] != total or found != expected:
        raise Failed(f"{arguments}: {status}, total {answer.get('total')} instead of {total}")
    return took_ms
