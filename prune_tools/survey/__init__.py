"""Many prunings of one model, measured and recorded."""
