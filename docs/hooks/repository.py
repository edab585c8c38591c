"""MkDocs hook: READMEs and reports become pages of the site, links to other files their paths.

Pages link as GitHub does: relative to the file they stand in, also to files outside of docs/. Here a link
to a file that is a page of the site leads to that page; a link to any other file that exists becomes its
path in code font. A link to no file is left as it is, which `mkdocs build --strict` refuses.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "tttscale/data/README.md": "data_format.md",
    "kernels/README.md": "kernels.md",
    "benchmarks/ptx/README.md": "ptx.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
"""File of the repository -> page; not copied where docs/ has a page of that name."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def pages() -> dict[str, str]:
    """Repository path -> page of the site, for every file outside docs/ that is one."""
    found = dict(PAGES)
    for text in sorted((ROOT / "kernels").rglob("*.md")):
        path = text.relative_to(ROOT).as_posix()
        learner = (text.parent.name if text.stem == "README" else text.stem).removeprefix("ttt_")
        found.setdefault(path, f"kernels_{learner}.md")
    found |= {
        report.relative_to(ROOT).as_posix(): f"reports/{report.name}"
        for pattern in ("*.md", "*.png")
        for report in (ROOT / "benchmarks").glob(pattern)
    }
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that stand beside the code."""
    for source, page in pages().items():
        if (ROOT / source).exists() and not (ROOT / "docs" / page).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that are right in the repository into links of the site."""
    path = page.file.src_uri
    source = {there: here for here, there in pages().items()}.get(path)
    if source is None or (ROOT / "docs" / path).exists():
        source = f"docs/{path}"
    return rewritten(markdown, source, path)


def rewritten(markdown: str, source: str, page: str) -> str:
    """The text of the repository's file `source`, as the site's `page`."""
    return _LINK.sub(lambda link: _rewritten_link(link, source, page), markdown)


def _rewritten_link(link: re.Match[str], source: str, page: str) -> str:
    image, text, target = link.groups()
    address, _, anchor = target.partition("#")
    if not address or ":" in address:
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), address))
    there = pages().get(path)
    if there is None and path.startswith("docs/"):
        there = path.removeprefix("docs/")
    if there is not None:
        relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{image}[{text}]({relative}{'#' + anchor if anchor else ''})"
    if (ROOT / path).exists():
        return f"{text} (`{path}`)" if text.strip("`") not in (path, address) else f"`{path}`"
    return link[0]
