"""Fine-tuning: schedules, the teacher, and keeping the start."""
