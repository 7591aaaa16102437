"""report.html: a result folder as one page that needs no network."""
