"""The report: one HTML file that opens from disk, offline, and says plainly whether the pictures got better.

`content` is what a report is made of, `of_run` reads it from a run's folder, `page` lists the sections in order. A
section is one function from `Content` to a small view and one template of the same name; a new one is a function, a
template and a line in `page.SECTIONS`.
"""

from .content import Column, Compared, Content, Shot, Votes
from .of_run import refresh, report
from .page import write_report

__all__ = ["Column", "Compared", "Content", "Shot", "Votes", "refresh", "report", "write_report"]
