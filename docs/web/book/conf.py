"""Sphinx's settings of the book. `python -m tools.website` prepares the sources and calls it."""

import os

from docutils import nodes

project = html_title = "ddpm_helpers"
author = "The ddpm_helpers authors"
copyright = author
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_files"]

# Notebooks are shown as they were committed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
templates_path = ["_templates"]
pygments_style, pygments_dark_style = "friendly", "github-dark"
html_context = {"draw": "DDPM_SITE_DRAW" in os.environ}
html_sidebars = {
    "**": [
        "sidebar/brand.html", "sidebar/draw.html", "sidebar/search.html",
        "sidebar/scroll-start.html", "sidebar/navigation.html", "sidebar/scroll-end.html",
    ]
}  # fmt: skip
if "DDPM_SITE_MATHJAX" in os.environ:  # else Sphinx's own choice, from the network
    mathjax_path = "mathjax/tex-chtml.js"

default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True  # a dataclass's fields stand once


def keep_tags(app, doctree):
    """Equations with a \\tag as they are: Sphinx puts those of several lines in `split`, where
    \\tag is an error."""
    for node in doctree.findall(nodes.math_block):
        if "\\tag" in (source := node.astext()):
            node["nowrap"] = node["no-wrap"] = True
            node.children = [nodes.Text(f"\\[{source}\\]")]


def keep_equations(app, what, name, obj, options, lines):
    """Blocks indented by four in our docstrings are equations: shown as they are. So is |x|."""
    out, section = [], ""
    for above, line in zip(["", *lines], list(lines), strict=False):
        section = line.strip() if line and not line.startswith(" ") else section
        equation = line.startswith("    ") and section not in SECTIONS
        if equation and not above.strip():
            out += ["::", ""]
        out.append(line if equation or "`" in line else line.replace("|", "\\|"))
    lines[:] = out


def skip_foreign(app, what, name, obj, skip, options):
    """What another library adds to a class of ours has its documentation there."""
    return True if not getattr(obj, "__module__", project).startswith(project) else None


SECTIONS = {"Args:", "Attributes:", "Returns:", "Raises:", "Yields:", "Example:"}


def setup(app):
    app.connect("doctree-read", keep_tags)
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("autodoc-process-docstring", keep_equations, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
