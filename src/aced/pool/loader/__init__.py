"""From rows to batches on the device: processes that read, chunks, pinned memory."""
