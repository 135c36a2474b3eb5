r"""The grammar of filters: the terms by which people choose devices, parsed and written.

A filter is a list of terms, all of which have to hold. A term is text of this form; ``|`` separates alternatives::

    term      = ["!"] condition                     "!" is "not"
    condition = "online" / "offline"
              / field operator value *("|" value)   any of the values
              / field ("=" / "!=") "*"              the field exists, or does not
    operator  = "=" / "!=" / "~" / "!~" / "<" / "<=" / ">" / ">="
    value     = bare / quoted
    quoted    = DQUOTE *(any character; backslash before a DQUOTE or a backslash) DQUOTE

A bare value has none of ``| < > ! * " \`` and does not begin with ``=`` or ``~``. `FIELDS` lists the fields with the
operators that each takes. A dot, or a character of an operator, that belongs to a key is written with a backslash
before it: ``shadow.reported.a\.b``.

On one line (`parse_line`) spaces separate terms, so that values with spaces are quoted, and a word without an operator
stands for ``text~WORD``. `format_term` writes the one canonical form of a term, which is valid on a line too.
"""

from __future__ import annotations

from mdashcore.filters._fields import FIELDS, SUMMARY_FIELDS, FieldType
from mdashcore.filters._line import format_line, parse_line, split_line
from mdashcore.filters._parser import check_saved_name, parse_place, parse_term
from mdashcore.filters._terms import Field, Term, Value, format_term

__all__ = ["FIELDS", "SUMMARY_FIELDS", "Field", "FieldType", "Term", "Value"]
__all__ += ["check_saved_name", "format_line", "format_term", "parse_line", "parse_place", "parse_term", "split_line"]
