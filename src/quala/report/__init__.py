"""Reports: charts, figures, pages and tables."""
