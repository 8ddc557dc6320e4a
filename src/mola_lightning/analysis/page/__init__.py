"""A comparison of runs as one HTML page, which needs nothing but a browser."""

from mola_lightning.analysis.page.document import report_page

__all__ = ["report_page"]
