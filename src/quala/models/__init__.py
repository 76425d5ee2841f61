"""The length-adaptive encoder around Hugging Face layers: drop, restore, heads, significance."""
