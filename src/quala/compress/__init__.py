"""Pure transformations `model, config -> model` and the losses that heal what they cost."""
