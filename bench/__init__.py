"""The experiment: spaces, data, tables, the search loop and its records."""
