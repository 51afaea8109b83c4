"""The report's formats: whatever a text says, it is shown and takes no effect."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from backout.cli.report.blocks import (
    BAD,
    Block,
    Cell,
    Command,
    Diff,
    DiffRow,
    Document,
    Fields,
    Grid,
    Listing,
    Note,
    Section,
)
from backout.cli.report.html import html
from backout.cli.report.markdown import markdown

NASTY = "<script>alert(1)</script> \"'&amp; | `x` ``y`` *z* _w_ [a](javascript:b) # ~~s~~ $m$ \u202e \x1b[31m \\"
VOID = {"meta", "br", "hr", "img"}


class Page(HTMLParser):
    """Reads a page as a browser would: tags that are open, attributes that load something, the text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [
            name for name, _ in attrs if name in ("src", "srcset", "data", "background", "poster", "xlink:href")
        ]
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def nasty_blocks() -> tuple[Block, ...]:
    cell = Cell(NASTY, BAD, code=True)
    return (
        Fields(((NASTY, cell), ("plain", Cell(NASTY)))),
        Grid((NASTY,), ((cell,), (Cell(NASTY),))),
        Listing((Cell(NASTY),)),
        Note(Cell(NASTY)),
        Command(NASTY, NASTY),
        Diff(NASTY, (DiffRow("~", ((NASTY, NASTY),), ((NASTY, NASTY, None),)), DiffRow("-", (("a", ""),))), 3),
    )


def a_document(*blocks: Block, title: str = "title") -> Document:
    return Document(
        title, title, (Cell(title),), (Section(title, blocks, (Section(title, badges=(Cell(title),)),)),), title
    )


def test_html_takes_nothing_for_markup() -> None:
    text = html(a_document(*nasty_blocks(), title=NASTY))
    page = Page(text)

    assert page.open == []
    assert page.tags.isdisjoint({"script", "img", "iframe", "link", "object", "svg", "form"})
    assert page.loads == page.links == page.handlers == []
    assert page.text.count("<script>alert(1)</script>") >= 15
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_html_is_one_file_that_may_load_nothing() -> None:
    text = html(a_document(*nasty_blocks()))
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    ("text", "is_link"),
    [
        ("https://tracker.example.org/4711?a=1&b=2", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("see https://example.org", False),
    ],
)
def test_address_alone_becomes_a_link_and_no_other_scheme_does(text: str, is_link: bool) -> None:
    page = Page(html(a_document(Fields((("Request", Cell(text)),)))))
    assert page.links == ([text] if is_link else [])
    assert text in page.text


def test_address_with_quotes_cannot_leave_its_attribute() -> None:
    page = Page(html(a_document(Fields((("Request", Cell("https://x/\"onmouseover='a")),)))))
    assert page.handlers == []


def test_html_shows_missing_values_apart_from_texts() -> None:
    page = html(a_document(Diff("t", (DiffRow("~", (("id", "1"),), (("a", None, "NULL"), ("b", "", "x"))),))))
    assert '<del><span class="null">NULL</span></del> → <ins><code>NULL</code></ins>' in page
    assert '<span class="null">empty</span>' in page


def test_markdown_escapes_what_would_be_markup() -> None:
    text = markdown(a_document(Note(Cell("<b> *x* _y_ [a](b) `c` # | ~ $ & \\"))))
    assert "> &lt;b\\> \\*x\\* \\_y\\_ \\[a\\](b) \\`c\\` \\# \\| \\~ \\$ &amp; \\\\" in text


def test_markdown_keeps_values_of_rows_in_code_spans() -> None:
    rows = (DiffRow("~", (("id", "1"),), (("a", "@ada <img src=x>", "`tick` | pipe"), ("b", None, ""))),)
    text = markdown(a_document(Diff("main.t", rows, 2)))
    assert "- `~` id `1`: a `@ada <img src=x>` → `` `tick` \\| pipe ``, b NULL → (empty)" in text
    assert "- … and 2 more" in text


def test_markdown_table_has_as_many_cells_in_each_row_whatever_they_hold() -> None:
    grid = Grid(("a", "b", "c"), ((Cell(NASTY), Cell(NASTY, code=True), Cell("line\nbreak")),), right=(2,))
    lines = [line for line in markdown(a_document(grid)).split("\n") if line.startswith("|")]
    assert len(lines) == 3
    assert [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines] == [4, 4, 4]
    assert "---:" in lines[1]


def test_markdown_fence_is_longer_than_any_in_the_command() -> None:
    assert "````console\n$ a ``` b\n````" in markdown(a_document(Command("a ``` b")))
