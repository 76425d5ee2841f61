"""Data: SQuAD, GLUE and the demo set, as slices of features and batches of tensors."""
