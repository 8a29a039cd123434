"""`digits-score`: classifies any number of images, resumably, through servers or in the process."""
