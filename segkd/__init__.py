"""Knowledge distillation for dense prediction."""
