"""guardpass.bench: thresholds and comparisons of guards, twins, the demo guard, and measurements."""

from .calibration.calibrate import Calibration, calibrate
from .calibration.compare import compare
from .calibration.comparison import Comparison
from .calibration.thresholds import reset_thresholds

__all__ = ["Calibration", "Comparison", "calibrate", "compare", "reset_thresholds"]
