"""Reports: rows in files, their statistics, comparisons and markdown. Nothing here measures."""
