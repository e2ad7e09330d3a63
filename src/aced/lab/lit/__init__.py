"""LiT-Decoder: a small text decoder on the patch tokens of a frozen vision encoder, for captions and questions."""
