"""The report of a change as a document: what it says (`content`), in blocks, and how these look in Markdown and HTML."""
