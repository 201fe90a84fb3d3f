"""Export of runs to Trackio, Weights & Biases, TensorBoard and MLflow, by their own clients, from a process of its own.

It follows the journal, which is the queue: no run waits for a tracker, and none fails by it.
"""

TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")
"""The trackers that there are; each is an extra of the package, by the same name."""
