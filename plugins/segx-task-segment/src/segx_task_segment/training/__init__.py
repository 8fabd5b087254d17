"""What training needs of the task: augmented batches with every mask, box and class kept consistent."""
