"""How the judge and its children talk: messages of fixed size, and buffers of shared memory. Knows neither side."""
