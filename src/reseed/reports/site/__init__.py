"""A static site of the metrics: opens from disk or from any web server, needs neither network nor server."""

from reseed.reports.site.pages import build

__all__ = ["build"]
