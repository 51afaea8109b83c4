"""SQL text in, facts out: where statements begin and end, and what each would write. No database, no driver."""
