"""facsynth: find what fine-tuning data never teaches a language model, and write it."""

__version__ = "0.1.0"
