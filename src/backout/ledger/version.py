"""The version of the ledger's tables. Apart from `schema`, so that an ordinary run needs to import no more than this."""

VERSION = 2
READABLE_BY = 1  # the oldest code that still may read and append
