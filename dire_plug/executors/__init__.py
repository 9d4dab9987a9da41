"""Where units of work run: in this process one after another (inline), or in several local processes."""
