"""Services that training runs are recorded by: TensorBoard, W&B, MLflow, ClearML, Comet."""
