"""How well detections agree with labels."""
