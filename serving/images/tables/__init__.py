"""Tables whose rows are images: their files, what their columns mean, and what their cells hold.

Scoring and training share them. Imports numpy, `serving.errors`, `serving.images` and, only for Parquet, pyarrow.
"""
