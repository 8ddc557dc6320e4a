"""HTML made of elements: text is escaped wherever it comes from, because only :func:`element` makes markup."""

from collections.abc import Iterable
from html import escape

VOID = {"br", "img", "input", "link", "meta"}  # elements that have no end tag


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | int | float | bool | None) -> Markup:
    """One element.

    Args:
        name: of the element.
        *content: plain text, which is escaped, or :class:`Markup`.
        **attributes: a trailing underscore is dropped, the others become hyphens (``class_``, ``aria_sort``); True
            gives an attribute without a value, None and False none.
    """
    said = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.removesuffix("_").replace("_", "-")
        said += f" {shown}" if value is True else f' {shown}="{escape(str(value), quote=True)}"'
    if name in VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Parts one after the other; plain text among them is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part, quote=False) for part in parts))


NOTHING = Markup("")
