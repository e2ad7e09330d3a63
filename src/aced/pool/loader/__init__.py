"""From rows to batches on the device: reading processes, chunks, pinned memory."""
