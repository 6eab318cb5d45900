"""`python -m tools.website`: the series as HTML pages, plane.html and draw.html, in site/."""
