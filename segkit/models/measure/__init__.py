"""What a network costs and sees, from the shapes of its graph; no weight has to have a value."""
