"""The report of one run: table, charts, figure and page."""
