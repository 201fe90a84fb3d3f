"""Text, tokenizer and packed rows: everything before a run. Imports neither kernels nor the judge and its children."""
