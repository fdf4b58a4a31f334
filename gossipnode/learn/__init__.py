"""What is learned and how: tasks, local SGD, merging, the encodings of a model. Only here and in `compute` is torch."""
