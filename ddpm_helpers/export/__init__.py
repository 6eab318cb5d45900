"""Write trained weights in other formats: ONNX, diffusers, the Hugging Face Hub's folder."""

from ddpm_helpers.export.card import weights_name
from ddpm_helpers.export.diffusers_folder import export_diffusers
from ddpm_helpers.export.hub_folder import export_hub
from ddpm_helpers.export.onnx_file import export_onnx

__all__ = ["export_diffusers", "export_hub", "export_onnx", "weights_name"]
