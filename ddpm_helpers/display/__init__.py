"""Figures and sliders; only this package imports matplotlib and ipywidgets."""
