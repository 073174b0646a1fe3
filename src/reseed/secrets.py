"""Tokens and keys: from the environment or a git-ignored `.env`, and nowhere else; never written, never printed."""

from __future__ import annotations

import os
from pathlib import Path

ENV_FILE = Path(".env")


def secret(name: str) -> str | None:
    """The value of an environment variable, else of a `NAME=value` line of `.env`; None if neither has one."""
    if value := os.environ.get(name):
        return value
    lines = ENV_FILE.read_text().splitlines() if ENV_FILE.is_file() else []
    for line in lines:
        key, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and key.strip() == name:
            return value.strip().strip("'\"") or None
    return None


def without_secret(text: str, name: str) -> str:
    """`text` with the value of a secret cut out: for the message of a library that was given it."""
    value = secret(name)
    return text.replace(value, f"[{name}]") if value else text
