"""`python -m tools.website`: the series as HTML pages, and the page that draws, in site/."""
