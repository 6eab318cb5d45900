"""Figures and sliders: the only part of the package that needs matplotlib and ipywidgets."""
