"""TensorFlow's chatter: a dozen lines on processors and absent GPUs at every start, whatever its log level says."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow and lets it look for GPUs, with what it writes to stderr meanwhile shown only if that fails.

    Raises:
        ImportError: TensorFlow is not installed or can't be loaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)  # its C++ parts write there directly
        try:
            import tensorflow

            tensorflow.config.list_physical_devices("GPU")
        except Exception:
            log.seek(0)
            with os.fdopen(os.dup(stderr), "wb") as shown:
                shutil.copyfileobj(log, shown)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
