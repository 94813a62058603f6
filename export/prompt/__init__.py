"""From a family and a chat template to token ids: prefix, span and verdict tree."""
