"""Faces to embeddings outside training: `facex.inference.embed`, `facex.inference.extract`."""
