"""`python -m tools.website`: the series as HTML pages, and draw.html, in site/."""
