"""Text, tokenizer and packed rows: everything before a run. Knows nothing of kernels, the judge or what it starts."""
