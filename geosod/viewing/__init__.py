"""Pictures of scenes and detections."""
