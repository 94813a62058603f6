"""guardpass.bench: thresholds and comparisons of guards, twins, the demo guard, and measurements."""

from .calibrate import Calibration, calibrate
from .compare import compare
from .comparison import Comparison
from .thresholds import reset_thresholds

__all__ = ["Calibration", "Comparison", "calibrate", "compare", "reset_thresholds"]
