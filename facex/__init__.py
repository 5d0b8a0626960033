"""facex: train and evaluate face-recognition models (PyTorch, DeepSpeed, C++/CUDA operators)."""

__version__ = "0.1.0"
