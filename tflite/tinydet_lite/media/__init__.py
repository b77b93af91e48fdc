"""Pictures and streams: what detections are made on, drawn on and written to."""
