"""``python -m medspectrum`` is the command line."""

from medspectrum.cli import main

if __name__ == "__main__":
    main()
