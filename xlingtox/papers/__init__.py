"""Claims, exhibits and the report."""
