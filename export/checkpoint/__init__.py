"""A Hugging Face checkpoint on disk: its files, its architecture and its tokenizer."""
