"""Training a generator against a critic: tasks, the two turns, what is watched."""
