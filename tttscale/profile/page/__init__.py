"""The report as one HTML page that needs no network."""

from tttscale.profile.page.assemble import page_html

__all__ = ["page_html"]
