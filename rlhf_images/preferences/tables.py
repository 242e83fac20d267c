"""The two tables of the store, and how an event is read from its row. They are never updated but for leases.

  events  number, round, id, type, pair, annotator, choice, swapped, again, strength, ms, undoes, text, tags, at
  leases  round, pair, annotator, granted, until, seconds

``round`` is the folder's id, so that a team's one database holds the rounds of many folders; a lease says who has been
handed what until when.
"""

import json

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from .events import Event

METADATA = sql.MetaData()
_NUMBER = sql.BigInteger().with_variant(sql.Integer, "sqlite")  # only INTEGER counts up by itself there
EVENTS = sql.Table(
    "events",
    METADATA,
    sql.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sql.Column("round", sql.Text, nullable=False),
    sql.Column("id", sql.Text, nullable=False),
    sql.Column("type", sql.Text, nullable=False),
    sql.Column("pair", sql.Text, nullable=False),
    sql.Column("annotator", sql.Text, nullable=False),
    sql.Column("choice", sql.Text),
    sql.Column("swapped", sql.Boolean, nullable=False),
    sql.Column("again", sql.Boolean, nullable=False),
    sql.Column("strength", sql.Integer, nullable=False),
    sql.Column("ms", sql.Integer),
    sql.Column("undoes", sql.Text),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("tags", sql.Text, nullable=False),
    sql.Column("at", sql.Double, nullable=False),
    sql.UniqueConstraint("round", "id"),
    sql.Index("events_of_annotator", "round", "annotator", "number"),
)
LEASES = sql.Table(
    "leases",
    METADATA,
    sql.Column("round", sql.Text, primary_key=True),
    sql.Column("pair", sql.Text, primary_key=True),
    sql.Column("annotator", sql.Text, primary_key=True),
    sql.Column("granted", sql.BigInteger, nullable=False),
    sql.Column("until", sql.Double, nullable=False),
    sql.Column("seconds", sql.Double, nullable=False),
    sql.Index("leases_in_order", "round", "granted"),
)


def events_of(connection: Connection, wanted: sql.ColumnElement[bool]) -> list[tuple[int, Event]]:
    """Return the events whose rows are ``wanted``, each with its number, in order."""
    rows = connection.execute(sql.select(EVENTS).where(wanted).order_by(EVENTS.c.number)).mappings()
    return [
        (
            row["number"],
            Event(
                **{name: value for name, value in row.items() if name not in ("number", "round", "tags")},
                tags=tuple(json.loads(row["tags"])),
            ),
        )
        for row in rows
    ]
