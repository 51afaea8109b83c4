"""Of which characters a bare name is made: ASCII letters, digits, "_", and all that is not ASCII.

Written as what does not belong: a range up to U+10FFFF takes `re` 4 ms to compile, which every command would wait for.
"""

from __future__ import annotations

FIRST = r"[^\x00-@\[-^`{-\x7f]"
LATER = r"[^\x00-/:-@\[-^`{-\x7f]"
LATER_OR_DOLLAR = r"[^\x00-\x23%-/:-@\[-^`{-\x7f]"
