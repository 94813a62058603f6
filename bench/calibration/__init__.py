"""`guardpass calibrate` and `guardpass compare`: thresholds chosen on labelled texts, and guards compared on texts."""
