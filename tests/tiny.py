"""A random-initialised causal LM with tokenizer and chat template, made in a folder in a second."""

from training.scratch import make_causal_lm as make_tiny_causal_lm

__all__ = ["make_tiny_causal_lm"]
