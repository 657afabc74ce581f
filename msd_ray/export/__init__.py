"""Students for other programs: directories of safetensors, diffusers pipelines and ONNX models."""

from msd_ray.export.export import FORMATS, export

__all__ = ["FORMATS", "export"]
