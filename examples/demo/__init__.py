"""Worker processes against a strict provider, without and with a limiter: ``make demo``."""
