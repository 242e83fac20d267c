"""The report: one HTML file that opens from disk, offline, and says plainly whether the pictures got better.

`content` is what a run hands in, `page` lists the sections in order. A section is one function from `Content` to a
small view and one template of the same name; a new one is a function, a template and a line in `page.SECTIONS`.
"""

from .content import Compared, Content
from .page import write_report

__all__ = ["Compared", "Content", "write_report"]
