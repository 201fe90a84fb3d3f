"""Communication between the judge and its children: messages of fixed size and shared memory. Imports neither side."""
