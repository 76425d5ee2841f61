"""An HTTP service around an answering model, and its page."""
