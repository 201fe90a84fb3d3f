"""The means by which the judge and its children talk: messages of fixed size and shared memory. It knows neither side."""
