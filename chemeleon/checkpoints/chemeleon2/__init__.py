"""The published Chemeleon2 format: Lightning checkpoints are read as data, and imported."""
