"""The page, in one file: nothing in it is fetched from another host."""

from tttscale.watch.page.assemble import page_html

__all__ = ["page_html"]
