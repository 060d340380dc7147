"""What is imitated: models that answer D(x, at), and the images they converge to."""
