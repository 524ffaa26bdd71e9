"""Studies of training methods: the same detector trained in several ways, and measured by one protocol."""
