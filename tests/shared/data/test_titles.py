"""A title is one clean line, whatever was sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.titles import MAX_CHARS, clean_categories, clean_title

HOSTILE = st.text(alphabet=st.characters(codec=None, categories=None)) | st.text(alphabet="&amp;#x20lt \n\t\u2028")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("  Tom &amp; Viv ", "Tom & Viv"),
        ("Tom &amp;amp; Viv", "Tom & Viv"),
        ("L&#39;Or&eacute;al", "L'Oréal"),
        ("R&D, AT&T, Rock&region &copy", "R&D, AT&T, Rock&region &copy"),
        ("one\r\n\ttwo\u2028three\x00four", "one two three four"),
        ("\ud83d broken \udc80", "broken"),
        ("\ufeffbom\u200b \u202eevil", "bom evil"),
        ("Misérables, Les 映画", "Misérables, Les 映画"),
        ("&#10;&nbsp;\n", ""),
        ("", ""),
    ],
)
def test_titles_are_cleaned(raw: str, clean: str) -> None:
    assert clean_title(raw) == clean


@given(HOSTILE)
def test_any_title_becomes_one_bounded_line_of_utf8(raw: str) -> None:
    title = clean_title(raw)
    title.encode("utf-8")
    assert len(title) <= MAX_CHARS
    assert title == " ".join(title.split())
    assert all(char.isprintable() or ord(char) > 0x7F for char in title)


@given(HOSTILE)
def test_cleaning_twice_changes_nothing_more(raw: str) -> None:
    assert clean_title(clean_title(raw)) == clean_title(raw)


def test_an_endless_title_takes_no_endless_time() -> None:
    assert clean_title("&amp;" * 1_000_000) == "&" * MAX_CHARS
    assert clean_title("&" + "amp;" * 1_000_000).startswith("&")


def test_categories_are_clean_and_distinct_in_order() -> None:
    assert clean_categories(["Tools &amp; Home", " ", "Beauty", "Tools & Home"]) == ["Tools & Home", "Beauty"]
