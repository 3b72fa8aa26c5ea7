"""Training of a decoded architecture: recipe, loop, evaluation, distillation."""
