"""The service on Ray Serve: replicas of the model behind one listener, or whole services behind Ray's own."""
