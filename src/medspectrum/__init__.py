"""medspectrum: which foundation model, adapted how, is worth the effort on your own scans."""

__version__ = "0.1.0"
