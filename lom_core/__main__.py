"""``python -m lom_core`` is ``lom``, for launchers such as ``torchrun -m lom_core train RUN``."""

from lom_core.cli import main

if __name__ == "__main__":
    main()
